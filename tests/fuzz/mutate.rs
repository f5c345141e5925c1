//! How an input is changed: as bytes, as text with words that parsers care about, and as JSON.

use mutatis::{Candidates, Mutate, Result, Rng};
use serde_json::Value;

/// Inputs are lines and, behind an empty line, a body that may be JSON.
#[derive(Debug)]
pub(crate) struct Text;

/// Larger inputs teach nothing that these do not: the receiver takes 256 KiB.
const MAX: usize = 300 * 1024;

const WORDS: [&str; 40] = [
    "\"",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\\",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "-0",
    "1e999",
    "1e-999",
    "18446744073709551616",
    "-9223372036854775809",
    "0.1",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "ä",
    "🦀",
    "\r\n",
    " ",
    "=",
    "'''",
    "\"\"\"",
    "#",
    "%00",
    "%zz",
    "&",
    "..",
    "/",
    "access-sandbox-",
    "processor-production-",
    "public-development-",
    "access-sandbox-marked-1",
    "link-",
    "item_id",
];

type Change = fn(&mut Rng, &mut Vec<u8>);

const CHANGES: [Change; 12] = [
    |r, v| flip(r, v),
    insert_byte,
    remove,
    remove,
    copy,
    word,
    word,
    word,
    end_early,
    change_json,
    change_json,
    change_json,
];
const SHRINKS: [Change; 4] = [remove, remove, end_early, |r, v| plain(r, v)];

impl Mutate<Vec<u8>> for Text {
    fn mutate(&mut self, candidates: &mut Candidates<'_>, value: &mut Vec<u8>) -> Result<()> {
        let changes: &[Change] = if candidates.shrink() { &SHRINKS } else { &CHANGES };
        for change in changes {
            candidates.mutation(|context| {
                change(context.rng(), value);
                value.truncate(MAX);
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn place(rng: &mut Rng, value: &[u8]) -> usize {
    rng.gen_index(value.len() + 1).unwrap_or(0)
}

/// Mostly short, sometimes of any length.
fn range(rng: &mut Rng, value: &[u8]) -> (usize, usize) {
    let from = place(rng, value);
    let longest = if rng.gen_index(4) == Some(0) { value.len() } else { 16 };
    (from, (from + 1 + rng.gen_index(longest + 1).unwrap_or(0)).min(value.len()).max(from))
}

fn flip(rng: &mut Rng, value: &mut [u8]) {
    if let Some(at) = rng.gen_index(value.len()) {
        value[at] ^= 1 << rng.gen_index(8).unwrap_or(0);
    }
}

fn insert_byte(rng: &mut Rng, value: &mut Vec<u8>) {
    let at = place(rng, value);
    value.insert(at, rng.gen_u8());
}

fn remove(rng: &mut Rng, value: &mut Vec<u8>) {
    let (from, to) = range(rng, value);
    value.drain(from..to);
}

fn copy(rng: &mut Rng, value: &mut Vec<u8>) {
    let (from, to) = range(rng, value);
    let copied = value[from..to].to_vec();
    let at = place(rng, value);
    for _ in 0..1 + rng.gen_index(3).unwrap_or(0) {
        value.splice(at..at, copied.iter().copied());
    }
}

fn word(rng: &mut Rng, value: &mut Vec<u8>) {
    let word = rng.choose(WORDS).unwrap_or("\"");
    let (from, to) = if rng.gen_bool() { range(rng, value) } else { (place(rng, value), 0) };
    value.splice(from..to.max(from), word.bytes());
}

fn end_early(rng: &mut Rng, value: &mut Vec<u8>) {
    value.truncate(place(rng, value));
}

fn plain(rng: &mut Rng, value: &mut [u8]) {
    let (from, to) = range(rng, value);
    value[from..to].fill(b'a');
}

/// Where the body begins.
pub(crate) fn body_at(input: &[u8]) -> usize {
    input.windows(2).position(|w| w == b"\n\n").map_or(0, |at| at + 2)
}

/// Changes one value deep inside the body and leaves it well formed, so that what comes behind the parser is reached.
fn change_json(rng: &mut Rng, value: &mut Vec<u8>) {
    let at = body_at(value);
    let Ok(mut json) = serde_json::from_slice::<Value>(&value[at..]) else { return word(rng, value) };
    descend(rng, &mut json);
    value.truncate(at);
    value.extend(json.to_string().into_bytes());
}

fn descend(rng: &mut Rng, node: &mut Value) {
    let stop = rng.gen_index(5) == Some(0);
    match node {
        Value::Object(fields) if !stop && !fields.is_empty() => {
            let n = rng.gen_index(fields.len()).unwrap_or(0);
            fields.values_mut().nth(n).into_iter().for_each(|field| descend(rng, field));
        }
        Value::Array(values) if !stop && !values.is_empty() => {
            let n = rng.gen_index(values.len()).unwrap_or(0);
            values.get_mut(n).into_iter().for_each(|value| descend(rng, value));
        }
        node => change_node(rng, node),
    }
}

fn change_node(rng: &mut Rng, node: &mut Value) {
    let text = |rng: &mut Rng| rng.choose(WORDS).unwrap_or("").to_owned();
    match rng.gen_index(9).unwrap_or(0) {
        0 => *node = Value::Null,
        1 => *node = Value::from(rng.gen_i64()),
        2 => *node = Value::from(text(rng)),
        3 => *node = Value::from(text(rng).repeat(1 + rng.gen_index(2000).unwrap_or(0))),
        4 => *node = Value::Array(vec![node.clone(), node.clone()]),
        5 => *node = Value::Object([(text(rng), node.take())].into_iter().collect()),
        6 => {
            for _ in 0..rng.gen_index(130).unwrap_or(0) {
                *node = Value::Array(vec![node.take()]);
            }
        }
        7 => match node {
            Value::Object(fields) => drop(fields.insert(text(rng), Value::from(text(rng)))),
            Value::Array(values) => values.clear(),
            Value::String(inner) => inner.push_str(&text(rng)),
            _ => *node = Value::Bool(true),
        },
        _ => match node {
            Value::Object(fields) => {
                let gone = rng.gen_index(fields.len()).and_then(|n| fields.keys().nth(n).cloned());
                gone.map(|name| fields.remove(&name));
            }
            Value::String(inner) => *inner = inner.to_uppercase(),
            _ => *node = Value::from(0.5),
        },
    }
}
