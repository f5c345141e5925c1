#!/usr/bin/env python3
"""Records a run of the demonstration as an animated SVG: `deploy/recording.py target/debug/rekey > deploy/run.svg`.

What is written to a terminal is shown where and when it was written, with its colours; pauses are cut to what a reader can bear.
"""

import html
import os
import pty
import re
import select
import sys
import time

COLUMNS, CELL, LINE, EDGE = 122, 7.2, 17, 14
LONGEST_PAUSE, HOLD, FASTER = 1.2, 6.0, 1.0
COLOURS = {"1": "#ffffff", "31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff", "2": "#8b949e", "90": "#8b949e"}
PLAIN = "#c9d1d9"


def written(command):
    """What it writes to a terminal, each piece with the second at which it came."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES="60")
        os.execvp(command[0], command)
    began, shift, last = time.monotonic(), 0.0, 0.0
    while True:
        select.select([terminal], [], [], 60)
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        at = time.monotonic() - began
        shift += max(0.0, at - last - LONGEST_PAUSE)
        last = at
        yield (at - shift) / FASTER, piece.decode(errors="replace")
    os.waitpid(child, 0)


def placed(pieces):
    """Texts with their row, column, colour and time. A long line goes on in the next row, as in a terminal."""
    row, column, colour = 0, 0, PLAIN
    for at, piece in pieces:
        for token in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", piece):
            if token == "\n":
                row, column = row + 1, 0
            elif token == "\r":
                column = 0
            elif token.startswith("\x1b"):
                if token.endswith("m"):
                    codes = token[2:-1].split(";")
                    found = [COLOURS[code] for code in codes if code in COLOURS]
                    colour = found[-1] if found else PLAIN
            else:
                while token:
                    fits, token = token[: COLUMNS - column], token[COLUMNS - column :]
                    yield row, column, colour, at, fits
                    row, column = (row + 1, 11) if token else (row, column + len(fits))


texts = list(placed(written(sys.argv[1:2] + ["run", "--once"])))
length = max(at for _, _, _, at, _ in texts) + HOLD
rows = max(row for row, *_ in texts) + 1
width, height = COLUMNS * CELL + 2 * EDGE, rows * LINE + 2 * EDGE
print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">')
print("<title>rekey run: access tokens change, every processor token dies, and Rekey brings them back</title>")
# Whoever asks for less motion sees the end at once.
print("<style>text{font:12px ui-monospace,Menlo,Consolas,monospace;white-space:pre}@media(prefers-reduced-motion){text{animation:none!important}}")
moments = sorted({round(at, 2) for _, _, _, at, _ in texts})
for number, at in enumerate(moments):
    begins = 100 * at / length
    print(f".t{number}{{animation:k{number} {length:.2f}s step-end infinite}}@keyframes k{number}{{0%{{opacity:0}}{begins:.2f}%{{opacity:1}}}}")
print(f'</style><rect width="100%" height="100%" rx="8" fill="#0d1117"/>')
for row, column, colour, at, text in texts:
    x, y = EDGE + column * CELL, EDGE + (row + 1) * LINE - 4
    # Its width is told, so that a font of another width changes nothing.
    place = f'x="{x:.1f}" y="{y}" textLength="{len(text) * CELL:.1f}" lengthAdjust="spacingAndGlyphs"'
    print(f'<text class="t{moments.index(round(at, 2))}" {place} fill="{colour}">{html.escape(text)}</text>')
print("</svg>")
