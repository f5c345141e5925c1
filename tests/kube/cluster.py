"""What the tests in a cluster share: commands, waiting, a namespace, and what a company has beside and inside its cluster."""

import base64
import contextlib
import json
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
CHART = TOP / "deploy/chart"
HELM = os.environ.get("HELM", "helm")
REKEY = Path(os.environ.get("REKEY", TOP / "target/debug/rekey"))

# Kinds of operators that the charts' objects may be of.
FOREIGN = [
    ("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor"),
    ("monitoring.coreos.com", "v1", "prometheusrules", "PrometheusRule"),
    ("monitoring.coreos.com", "v1", "servicemonitors", "ServiceMonitor"),
    ("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
    ("external-secrets.io", "v1", "externalsecrets", "ExternalSecret"),
    ("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute"),
    ("networking.gke.io", "v1", "healthcheckpolicies", "HealthCheckPolicy"),
    ("kafka.strimzi.io", "v1", "kafkatopics", "KafkaTopic"),
]


class Failed(Exception):
    pass


def run(*command, stdin=None):
    done = subprocess.run([str(c) for c in command], input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr.strip()[-2000:]}")
    # Admission answers what a namespace would not let run as a warning on the object that makes the pods.
    if "would violate PodSecurity" in done.stderr:
        raise Failed(done.stderr.strip())
    return done.stdout


def kubectl(*args, stdin=None):
    return run("kubectl", *args, stdin=stdin)


def get(*args):
    return json.loads(kubectl("get", "-o", "json", *args))


def apply(*objects):
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def eventually(what, look, patience=120):
    """What `look` returns once it is true."""
    until = time.monotonic() + patience
    while not (seen := look()):
        if time.monotonic() > until:
            raise Failed(f"not within {patience} s: {what}")
        time.sleep(0.3)
    return seen


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@contextlib.contextmanager
def foreign_kinds():
    """The kinds that the cluster lacks are there meanwhile, and take anything."""
    there = {o["metadata"]["name"] for o in get("customresourcedefinitions")["items"]}
    made = []
    try:
        for group, version, plural, kind in FOREIGN:
            name = f"{plural}.{group}"
            if name in there:
                continue
            schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            crd = {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": name, "annotations": {}},
                "spec": {
                    "group": group,
                    "scope": "Namespaced",
                    "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
                    "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
                },
            }
            if group.endswith(".k8s.io"):
                # Groups of Kubernetes' own are refused without it.
                crd["metadata"]["annotations"]["api-approved.kubernetes.io"] = "unapproved, for a test"
            apply(crd)
            made.append(name)
        for name in made:
            kubectl("wait", "--for=condition=Established", f"customresourcedefinition/{name}", "--timeout=30s")
        yield
    finally:
        for name in made:
            kubectl("delete", "customresourcedefinition", name, "--wait=false")


class Namespace:
    """One that enforces `restricted`, and everything in it."""

    def __init__(self, name):
        self.name = name
        modes = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": modes}})
        # Without its default account a namespace takes no pods yet.
        eventually("the namespace has an account", lambda: "default" in self.kubectl("get", "serviceaccounts", "-o", "name"))

    def kubectl(self, *args, stdin=None):
        return kubectl("-n", self.name, *args, stdin=stdin)

    def get(self, *args):
        return json.loads(self.kubectl("get", "-o", "json", *args))

    def secrets(self, secrets):
        for name, data in secrets.items():
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}
            self.kubectl("apply", "-f", "-", stdin=json.dumps(secret))

    def helm(self, verb, release, *args, values=None):
        """`values` go over what the arguments say."""
        over = [] if values is None else ["--values", "-"]
        text = None if values is None else json.dumps(values)
        return run(HELM, verb, release, *args, *over, "--namespace", self.name, stdin=text)

    def pods(self, release, role=None):
        role = f",app.kubernetes.io/component={role}" if role else ""
        return self.get("pods", "-l", f"app.kubernetes.io/instance={release}{role}")["items"]

    @contextlib.contextmanager
    def forwarded(self, target, port):
        """A local address of a port in the cluster, through the API server."""
        command = ["kubectl", "-n", self.name, "port-forward", target, f":{port}"]
        forward = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            line = forward.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if not found:
                raise Failed(f"port-forward to {target}: {line!r}")
            threading.Thread(target=forward.stdout.read, daemon=True).start()
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            forward.terminate()
            forward.wait()

    def nothing_secret_is_logged(self, *secrets):
        searched = 0
        for pod in self.get("pods")["items"]:
            name = pod["metadata"]["name"]
            try:
                text = self.kubectl("logs", name, "--all-containers")
            except Failed as why:
                if "NotFound" in str(why) or "not found" in str(why):
                    continue
                raise
            if not text and pod["status"].get("phase") == "Running":
                raise Failed(f"{name} has logged nothing")
            searched += len(text)
            for secret in ("access-sandbox-", "processor-sandbox-", *secrets):
                if secret in text:
                    raise Failed(f"a secret is in the log of {name}")
        if searched < 1000:
            raise Failed(f"there were {searched} bytes of log to search")

    def tell(self):
        """What a person would look at first."""
        for command in (["get", "pods,jobs", "-o", "wide"], ["get", "events", "--field-selector=type=Warning"]):
            done = subprocess.run(["kubectl", "-n", self.name, *command], capture_output=True, text=True)
            print(done.stdout, flush=True)

    def drop(self):
        if not os.environ.get("KEEP"):
            kubectl("delete", "namespace", self.name, "--ignore-not-found", "--wait=false")


class Services:
    """Kafka, PostgreSQL and an identity provider outside the cluster (services.rs), for as long as the block lasts."""

    def __enter__(self):
        program = REKEY.parent / "services"
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.at = self.answer()
        return self

    def __exit__(self, *why):
        # The end of its input is its end.
        self.process.stdin.close()
        self.process.wait()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed("the services outside the cluster ended: what they said stands above")
        return json.loads(line)

    def order(self, **what):
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        self.answer()

    def database(self, name, parameters="sslmode=require"):
        self.order(database=name)
        return self.database_url(name, parameters)

    def database_url(self, name, parameters="sslmode=require"):
        return f"postgres://rekey@{self.at['database']}/{name}?{parameters}"


class Operators(threading.Thread):
    """What the External Secrets Operator and Strimzi do, in so far as the chart's objects ask for it."""

    def __init__(self, namespace, topics_namespace, store, services):
        super().__init__(daemon=True)
        self.namespace, self.topics_namespace, self.store, self.services = namespace, topics_namespace, store, services
        self.over, self.error, self.seen = threading.Event(), None, set()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *why):
        self.over.set()
        self.join()
        if self.error and not any(why):
            raise self.error

    def run(self):
        try:
            while not self.over.wait(0.5):
                for external in self.namespace.get("externalsecrets.external-secrets.io")["items"]:
                    self.fetch(external)
                for topic in get("kafkatopics.kafka.strimzi.io", "-n", self.topics_namespace)["items"]:
                    self.make(topic["metadata"]["name"], topic["spec"])
        except Exception as why:
            self.error = why

    def once(self, key):
        fresh = key not in self.seen
        self.seen.add(key)
        return fresh

    def fetch(self, external):
        if self.once(f"{external['metadata']['uid']} {external['metadata']['generation']}"):
            data = {
                d["secretKey"]: base64.b64encode(self.store[d["remoteRef"]["key"]][d["remoteRef"]["property"]].encode()).decode()
                for d in external["spec"]["data"]
            }
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": external["spec"]["target"]["name"]}, "data": data}
            self.namespace.kubectl("apply", "-f", "-", stdin=json.dumps(secret))

    def make(self, name, spec):
        if self.once(f"topic {name}"):
            self.services.order(
                topic=spec["topicName"], partitions=spec["partitions"], replicas=spec["replicas"], config=spec["config"]
            )


def call(url, method="GET", body=None, timeout=120):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as why:
        raise Failed(f"{method} {url}: {why.code} {why.read().decode(errors='replace')}") from why
    except OSError as why:
        raise Failed(f"{method} {url}: {why!r}") from why


def exact(sandbox, patience=90):
    """What the sandbox's oracle says once every list is what it should be."""
    until = time.monotonic() + patience
    while True:
        verdict = call(f"{sandbox}/control/verdict?wait=20")
        if verdict["exact"]:
            if verdict["violations"] or verdict["counts"]["needless_puts"]:
                raise Failed(f"violated: {verdict}")
            return verdict
        if time.monotonic() > until:
            raise Failed(f"not exact: {verdict}")


def link(sandbox, business, accounts=1, announce="push"):
    """A business with one Item; the Item's id."""
    call(f"{sandbox}/control/businesses", "POST", {"external_id": business, "at_layer": True})
    accounts = [{"name": "Checking", "mask": f"{n:04}"} for n in range(accounts)]
    new = {"business": business, "announce": announce, "accounts": accounts}
    return call(f"{sandbox}/control/items", "POST", new)["item_id"]


def rotate(sandbox, item, announce="push"):
    call(f"{sandbox}/control/items/{item}/rotate?announce={announce}", "POST")


def image():
    repository, _, version = os.environ["TEST_IMAGE"].rpartition(":")
    return {"repository": repository, "tag": version, "pullPolicy": "IfNotPresent"}


def made_secrets():
    """A key ring and an admin token of this run's own: (secrets by name, the token, its hash)."""
    ring = dict(re.findall(r'^(keys|fingerprint_key) = "(.*)"$', run(REKEY, "keys", "new"), re.M))
    made = run(REKEY, "token", "new", "visitor", "operate")
    token = re.search(r"token: (\S+)", made)[1]
    secrets = {
        "rekey-keys": {"keys": ring["keys"], "fingerprint-key": ring["fingerprint_key"]},
        "rekey-providers": {"plaid-secret": os.urandom(16).hex(), "layer-client-secret": os.urandom(16).hex()},
        "rekey-admin": {"token": token},
    }
    return secrets, token, re.search(r"visitor:operate:[0-9a-f]{64}", made)[0]
