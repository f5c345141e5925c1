#!/usr/bin/env python3
"""Writes deploy/chart/files/dashboard.json. What each panel answers is the registry's own word: a metric that is not in
it stops this program.

    target/debug/rekey --json metrics | deploy/dashboard.py >deploy/chart/files/dashboard.json
"""

import json
import re
import sys

REGISTRY = {metric["name"]: metric for metric in json.load(sys.stdin)}
# Alerts and rules group by namespace; without Kubernetes there is none, and `.*` matches that too.
NS = 'namespace=~"$namespace"'


def of(name, labels=""):
    return f"{name}{{{labels + ',' if labels else ''}{NS}}}"


def rate(name, by="", labels=""):
    return f"sum {f'by ({by}) ' if by else ''}(rate({of(name, labels)}[$__rate_interval]))"


def most(name, by="", labels=""):
    """Every consumer shows the same figures about the store: never their sum."""
    return f"max {f'by ({by}) ' if by else ''}({of(name, labels)})"


def quantile(q, name, by="", labels=""):
    series = of(name + "_bucket", labels)
    return f"histogram_quantile({q}, sum by (le{', ' + by if by else ''}) (rate({series}[$__rate_interval])))"


def percentiles(name, by="", labels=""):
    legend = "{{" + by + "}} " if by else ""
    return {f"{legend}{word}": quantile(q, name, by, labels) for word, q in (("half", 0.5), ("95 %", 0.95))}


TAKEN = 'outcome=~"published|dead_letter"'
ASKED = 'outcome=~"published|dead_letter|unavailable",reason!="key_unavailable"'
ANSWERED = f"sum(increase({of('rekey_webhooks_total', TAKEN)}[1h])) / sum(increase({of('rekey_webhooks_total', ASKED)}[1h]))"
WAITING = f"sum(max by (kind, by, code) ({of('rekey_blocked_rows', 'by=~' + chr(34) + 'parked|hold' + chr(34))})) or vector(0)"

# Customers who must log in, and lists that Layer does not show, are no fault that an operator mends.
RISK = 'state!~"waiting_for_user|unverified"'
UNCONVERGED = f"sum(max by (state) ({of('rekey_unconverged_businesses', RISK)}))"

# Row: panels of (title, unit, {legend: expression}). A panel of the first row with thresholds is one large number.
DASHBOARD = {
    "Are customers' books safe?": [
        ("Businesses unconverged", "none", {"": UNCONVERGED}, (1, 10)),
        ("The oldest of them", "s", {"": most("rekey_unconverged_oldest_seconds", "", RISK)}, (300, 1800)),
        ("Webhooks answered 200, last hour", "percentunit", {"": ANSWERED}, (0.999, 0.99)),
        ("Rows that wait for a person", "none", {"": WAITING}, (1, 10)),
        ("Providers paused", "none", {"": f"sum(max by (provider) ({of('rekey_provider_paused')}))"}, (1, 1)),
        ("95 % of changes at Layer within, last hour", "s",
         {"": quantile(0.95, "rekey_converge_seconds").replace("$__rate_interval", "1h")}, (60, 300)),
        ("Businesses unconverged", "none", {"{{state}}": most("rekey_unconverged_businesses", "state")}),
        ("From the first signal to converged", "s", percentiles("rekey_converge_seconds")),
        ("Access tokens changed, lists sent", "ops",
         {"changed, {{source}}": rate("rekey_token_changes_total", "source"),
          "PUT {{result}}": rate("rekey_puts_total", "result", 'result!="not_needed"')}),
    ],
    "Webhooks": [
        ("Webhooks by outcome", "reqps", {"{{outcome}}": rate("rekey_webhooks_total", "outcome")}),
        ("Not taken, by reason", "reqps", {"{{reason}}": rate("rekey_webhooks_total", "reason", 'outcome=~"rejected|unavailable"')}),
        ("Plaid waits for", "s", percentiles("rekey_webhook_seconds", "phase")),
        ("Verification keys", "none", {"{{state}}": most("rekey_webhook_keys", "state")}),
        ("Key look-ups", "ops", {"{{result}}": rate("rekey_webhook_key_lookups_total", "result")}),
        ("Our clock ahead of Plaid's", "s", {"{{instance}}": of("rekey_webhook_clock_skew_seconds")}),
    ],
    "Kafka": [
        ("Brokers connected", "none", {"{{instance}}": of("rekey_kafka_brokers_up")}),
        ("Records not acknowledged yet", "none",
         {"queued": f"sum({of('rekey_kafka_queue_records')})", "in flight": f"sum({of('rekey_producer_in_flight')})"}),
        ("Round trip to a broker", "s", {"{{instance}}": of("rekey_kafka_request_seconds")}),
        ("Errors of librdkafka", "ops", {"{{kind}}": rate("rekey_kafka_errors_total", "kind")}),
        ("Events that wait for intake", "none", {"{{topic}}": f"sum by (topic) ({of('rekey_intake_lag_records')})"}),
        ("Events taken in", "ops", {"{{outcome}}": rate("rekey_intake_records_total", "outcome"),
                                    "unknown Item": rate("rekey_unknown_item_events_total")}),
        ("Copies behind an acknowledgement", "none", {"{{topic}}": f"min by (topic) ({of('rekey_topic_min_insync_replicas')})"}),
        ("Lost or unreadable in the last hour", "none",
         {"gaps": f"sum(increase({of('rekey_intake_gaps_total')}[1h]))",
          "dead letters, {{from}}": f"sum by (from) (increase({of('rekey_dead_letters_total')}[1h]))"}),
        ("Outcomes not published yet", "none", {"outcomes": most("rekey_outbox_records")}),
        ("What Plaid says of webhooks and consents", "none",
         {"last webhook never came": most("rekey_missed_webhooks"), "sent elsewhere": most("rekey_webhooks_elsewhere"),
          "consent ends in 30 days": most("rekey_consents_ending")}),
        ("Dead letters nobody has looked at", "none", {"records": most("rekey_dead_letters")}),
    ],
    "The work queue": [
        ("Due rows by class", "none", {"{{kind}} {{class}}": most("rekey_due_rows", "kind, class")}),
        ("The oldest row a worker could take", "s", {"{{kind}}": most("rekey_claimable_oldest_seconds", "kind")}),
        ("Blocked rows", "none", {"{{kind}} {{by}} {{code}}": most("rekey_blocked_rows", "kind, by, code") + " > 0"}),
        ("A reconciliation takes", "s", percentiles("rekey_reconcile_seconds", "kind")),
        ("The oldest look, and the sweep's period", "s",
         {"{{kind}}": most("rekey_reconciled_oldest_seconds", "kind"), "period": most("rekey_sweep_period_seconds")}),
        ("Leases lost, drift found, in an hour", "none",
         {"leases, {{kind}}": f"sum by (kind) (increase({of('rekey_leases_lost_total')}[1h]))",
          "drift, {{kind}}": f"sum by (kind) (increase({of('rekey_drift_total')}[1h]))"}),
    ],
    "Tokens and lists": [
        ("Mints", "ops", {"{{result}}": rate("rekey_mints_total", "result")}),
        ("Lists", "ops", {"{{result}}": rate("rekey_puts_total", "result")}),
        ("Orphans", "none", {"orphans": most("rekey_orphans")}),
        ("Look-ups in the platform's database", "ops", {"{{result}}": rate("rekey_token_lookups_total", "result")}),
        ("Third lists, and Layer's own accounts gone, in an hour", "none",
         {"third list, foreign: {{foreign}}": f"sum by (foreign) (increase({of('rekey_third_lists_total')}[1h]))",
          "Layer's own": f"sum(increase({of('rekey_layer_owned_changed_total')}[1h]))"}),
    ],
    "Plaid and Layer": [
        ("Answers other than ok", "reqps",
         {"{{endpoint}} {{result}}": rate("rekey_provider_calls_total", "endpoint, result", 'result!="ok"')}),
        ("Calls", "reqps", {"{{endpoint}}": rate("rekey_provider_calls_total", "endpoint")}),
        ("They take (95 %)", "s", {"{{endpoint}}": quantile(0.95, "rekey_provider_call_seconds", "endpoint")}),
        ("Budget booked ahead (1: even persons wait)", "percentunit", {"{{call}}": most("rekey_budget_booked_ratio", "call")}),
        ("Calls a minute that may be used now", "none", {"{{call}}": f"min by (call) ({of('rekey_budget_calls_per_minute')})"}),
        ("Slowed by 429, looks postponed", "ops",
         {"429 {{call}}": rate("rekey_slow_downs_total", "call"), "postponed {{call}}": rate("rekey_budget_postponed_total", "call")}),
        ("Their certificates end in", "s", {"{{peer}}": f"min by (peer) ({of('rekey_certificate_expires_seconds')})"}),
    ],
    "Processes": [
        ("Ready", "none", {"{{instance}}": of("rekey_ready")}),
        ("Releases", "none", {"{{version}} {{revision}}": f"count by (version, revision) ({of('rekey_build_info')})"}),
        ("The database takes (95 %)", "s", {"{{operation}}": quantile(0.95, "rekey_store_seconds", "operation")}),
        ("Callers that made room for others", "ops", {"{{instance}}": rate("rekey_connections_evicted_total", "instance")}),
    ],
}


def named_in(expression):
    for name in re.findall(r"\brekey_\w+", expression):
        base = re.sub(r"_(bucket|count|sum)$", "", name)
        yield base if base in REGISTRY and REGISTRY[base]["type"] == "histogram" else name


def questions(expressions):
    names = dict.fromkeys(name for e in expressions for name in named_in(e))
    if unknown := [name for name in names if name not in REGISTRY]:
        sys.exit(f"dashboard: not in the registry: {', '.join(unknown)}")
    return "\n".join(REGISTRY[name]["question"] for name in names)


def panel(number, x, y, width, height, title, unit, targets, thresholds=None):
    defaults = {"unit": unit, "min": 0} if title != "Our clock ahead of Plaid's" else {"unit": unit}
    if thresholds:
        warn, bad = thresholds
        steps = [("green", None), ("orange", warn), ("red", bad)] if warn <= bad else [("red", None), ("orange", bad), ("green", warn)]
        defaults["thresholds"] = {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in steps]}
    made = {
        "id": number,
        "type": "stat" if thresholds else "timeseries",
        "title": title,
        "description": questions(targets.values()),
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(65 + n), "expr": expression, "legendFormat": legend or "__auto"}
            for n, (legend, expression) in enumerate(targets.items())
        ],
    }
    made["options"] = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "none"}
        if thresholds
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    )
    return made


def panels():
    number, y = 0, 0
    for row, content in DASHBOARD.items():
        number += 1
        yield {"id": number, "type": "row", "title": row, "collapsed": False, "panels": [], "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        y, x = y + 1, 0
        for entry in content:
            number += 1
            width, height = (4, 4) if len(entry) == 4 else (8, 7)
            yield panel(number, x, y, width, height, *entry)
            x += width
            if x == 24:
                x, y = 0, y + height
        y += 7 if x else 0


def variable(name, label, **more):
    return {"name": name, "label": label, "hide": 0, **more}


json.dump(
    {
        "title": "Rekey",
        "uid": "rekey",
        "tags": ["rekey"],
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "schemaVersion": 39,
        "templating": {
            "list": [
                variable("datasource", "Prometheus", type="datasource", query="prometheus"),
                variable(
                    "namespace", "Namespace", type="query", datasource={"type": "prometheus", "uid": "$datasource"},
                    query="label_values(rekey_build_info, namespace)", refresh=2, includeAll=True, allValue=".*",
                    current={"text": "All", "value": "$__all"},
                ),
            ]
        },
        "panels": list(panels()),
    },
    sys.stdout,
    indent=1,
)
print()
