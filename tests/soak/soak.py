#!/usr/bin/env python3
"""Soak test: the real binary over TCP, for a given time, with everything against it; at the end both tables are equal.

    cargo build --release && tests/soak/soak.py --minutes 30

One `dynaferry sandbox` with its faults on. Between it and one `dynaferry run` a proxy that delays, cuts and black-holes
connections, and delivers requests whose client is long gone. A writer that goes past the proxy. A supervisor that kills,
freezes or stops the replicator every 20 to 60 s and starts it again. Then calm: everything has to arrive, `dynaferry verify`
and a comparison of our own have to find both tables equal.

With `--workers 4` as many `dynaferry run` share the work, their state in a table of the sandbox; blows fall on one of them,
mostly on the one that holds the link. With `--fence` their writes go through gates: no key may ever be in doubt. With
`--sharing` they share the shards of the link, and nothing is beaten before it is divided. `--calm` leaves the network alone,
so that the time until another one has caught up is the workers' own.

Exit 0 only then, and only if the replicator never ended by itself, never hung and never claimed a gap: nothing is lost here.
Standard library only. Listens on 127.0.0.1 alone, ends its own processes alone. The same seed draws the same events; their
interleaving is the machine's.
"""

import argparse
import asyncio
import base64
import collections
import datetime
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

# What may hold a write back, in seconds. A write that has no answer must be in doubt for longer than all of it together:
# with 1 s, late writes win, and the tables differ within two minutes.
MAX_HELD = 9.0  # by the proxy
MAX_FROZEN = 15.0  # by a stopped process
MAX_LATE = 4.0  # by the sandbox
IN_DOUBT_FOR = 35
assert IN_DOUBT_FOR > MAX_HELD + MAX_FROZEN + MAX_LATE

BETWEEN_BLOWS = (20.0, 60.0)
FIRST_BLOW = (1.0, 8.0)  # While it loads.
# Without progress for so long, it hangs: every blow and every doubt is over several times.
HUNG_AFTER = 300.0
CATCH_UP_WITHIN = 400.0
# Loaded, whole for a minute, and no key in doubt.
DIVIDED_WITHIN = 300.0
DIVIDED, WHOLE = b"the link is divided: its shards are shared", b"the link is whole"
ITEMS = 8_000
KEYS = 3_000  # that change


class Failed(Exception):
    """The soak is over, and not well."""


def say(text):
    print(f"{time.strftime('%H:%M:%S', time.gmtime())}  {text}", flush=True)


# The proxy.


class Weather:
    """What the network does at the moment."""

    def __init__(self, rng):
        self.rng = rng
        self.calm = False
        self.latency = (0.0, 0.0)
        self.closed_until = 0.0
        self.connections = set()
        self.figures = collections.Counter()

    async def blow(self):
        """Draws one event after another, until cancelled."""
        rng = self.rng
        while True:
            await asyncio.sleep(rng.uniform(0.5, 5.0))
            event = rng.choices(["cut", "cut_all", "hole", "hole_all", "slow", "closed"], [8, 1, 8, 2, 5, 1])[0]
            alive = sorted(self.connections, key=lambda one: one.number)
            some = rng.sample(alive, min(len(alive), rng.randint(1, 3)))
            if event == "cut" or event == "cut_all":
                for connection in alive if event == "cut_all" else some:
                    self.figures["cuts"] += 1
                    connection.cut(rng.choice(["both", "client"]))
            elif event == "hole" or event == "hole_all":
                lasts = rng.uniform(0.5, MAX_HELD - 1)
                drops = rng.random() < 0.3
                for connection in alive if event == "hole_all" else some:
                    self.figures["black_holes"] += 1
                    connection.fall(lasts, drops)
            elif event == "slow":
                most = rng.choice([0.0, 0.02, 0.1, 0.3, 0.9])
                self.latency = (most / 4, most)
                self.figures["delays"] += most > 0
            else:
                self.figures["refusals"] += 1
                self.closed_until = time.monotonic() + rng.uniform(0.5, 4.0)

    def become_calm(self):
        self.calm = True
        self.latency = (0.0, 0.0)
        self.closed_until = 0.0


class Connection:
    """One connection of the replicator and its twin to the sandbox."""

    numbers = 0

    def __init__(self, weather, client, server):
        Connection.numbers += 1
        self.number = Connection.numbers
        self.weather = weather
        self.client = client
        self.server = server
        self.client_is_gone = False
        self.hole_until = 0.0
        self.drops = False

    async def carry(self):
        up = asyncio.create_task(self.pass_on(self.client, self.server, to_server=True))
        down = asyncio.create_task(self.pass_on(self.server, self.client, to_server=False))
        try:
            await up
            # What was held back is on its way: the sandbox has to read it before it sees that nobody waits.
            await asyncio.wait([down], timeout=2.0)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            for _, writer in (self.client, self.server):
                writer.transport.abort()

    async def pass_on(self, origin, destination, to_server):
        reader, writer = origin[0], destination[1]
        held = asyncio.Queue()

        async def take():
            try:
                while data := await reader.read(65536):
                    low, high = self.weather.latency
                    held.put_nowait((time.monotonic(), self.weather.rng.uniform(low, high), data))
            except OSError:
                pass
            if to_server:
                self.client_is_gone = True
            held.put_nowait(None)

        taking = asyncio.create_task(take())
        try:
            while (piece := await held.get()) is not None:
                came, latency, data = piece
                while (wait := max(came + latency, self.hole_until) - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                if time.monotonic() - came > MAX_HELD or (self.drops and came < self.hole_until):
                    return
                if to_server and self.client_is_gone:
                    self.weather.figures["late"] += 1
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            taking.cancel()

    def fall(self, lasts, drops):
        """Into a black hole: nothing gets through for a while, and then all of it, or nothing and never."""
        self.hole_until = time.monotonic() + lasts
        self.drops = drops

    def cut(self, where):
        """At the client alone: what it has sent still arrives."""
        self.client[1].transport.abort()
        if where == "both":
            self.server[1].transport.abort()


async def serve_proxy(weather, upstream):
    async def accept(reader, writer):
        if time.monotonic() < weather.closed_until:
            writer.transport.abort()
            return
        try:
            server = await asyncio.open_connection("127.0.0.1", upstream)
        except OSError:
            writer.transport.abort()
            return
        for each in (writer, server[1]):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(weather, (reader, writer), server)
        weather.connections.add(connection)
        try:
            await connection.carry()
        except asyncio.CancelledError:
            pass
        finally:
            weather.connections.discard(connection)

    return await asyncio.start_server(accept, "127.0.0.1", 0)


# DynamoDB, as much as is needed.


class Table:
    """One table, straight at the sandbox."""

    def __init__(self, port, account, world):
        self.port = port
        self.name = world["table"]
        scope = f"{account}/20260101/{world['region']}/dynamodb/aws4_request"
        self.headers = {
            "content-type": "application/x-amz-json-1.0",
            "x-amz-date": "20260101T000000Z",
            "authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature=0",
        }
        self.connection = None

    def call(self, operation, body):
        """One attempt: status and document. What fails on the way is an OSError, an HTTPException or a ValueError."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = self.headers | {"x-amz-target": f"DynamoDB_20120810.{operation}"}
            self.connection.request("POST", "/", json.dumps(body), headers)
            answer = self.connection.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.connection.close()
            self.connection = None
            raise

    def scan(self):
        """All items by key; the sandbox breaks requests of this, too, so that each is sent until it is answered."""
        items, start = {}, None
        while True:
            body = {"TableName": self.name, "ConsistentRead": True} | ({"ExclusiveStartKey": start} if start else {})
            document = self.insist("Scan", body)
            for item in document["Items"]:
                items[item["customer"]["S"], item["order"]["N"]] = without_order(item)
            start = document.get("LastEvaluatedKey")
            if not start:
                return items

    def insist(self, operation, body):
        last = None
        for _ in range(200):
            try:
                status, document = self.call(operation, body)
                if status == 200:
                    return document
                last = document
            except (OSError, http.client.HTTPException, ValueError) as error:
                last = error
            time.sleep(0.05)
        raise Failed(f"{operation} fails: {last}")


def without_order(value):
    """Sets have no order."""
    if isinstance(value, dict):
        return {name: sorted(each) if name in ("SS", "NS", "BS") else without_order(each) for name, each in value.items()}
    return [without_order(each) for each in value] if isinstance(value, list) else value


class Writer(threading.Thread):
    """Changes the source: skewed keys, hot keys, silence and bursts, every type, now and then a big item."""

    def __init__(self, table, rate, seed):
        super().__init__(daemon=True)
        self.table = table
        self.rate = rate
        self.rng = random.Random(f"writer {seed}")
        self.written = 0
        self.error = None
        self.ended = threading.Event()

    def run(self):
        rng = self.rng
        try:
            while not self.ended.is_set():
                rate = self.rate * rng.choice([0.0, 0.2, 0.5, 1.0, 1.0])
                until = time.monotonic() + rng.uniform(2, 15)
                due = time.monotonic()
                while time.monotonic() < until and not self.ended.is_set():
                    if rate == 0:
                        self.ended.wait(0.2)
                        continue
                    due = max(due + 1 / rate, time.monotonic() - 1)
                    self.ended.wait(max(0.0, due - time.monotonic()))
                    self.change()
        except Exception as error:  # The main thread looks at it.
            self.error = error

    def change(self):
        rng, name = self.rng, self.table.name
        kind = rng.random()
        if kind < 0.5:
            operation, body = "PutItem", {"TableName": name, "Item": self.item(self.key())}
        elif kind < 0.8:
            operation, body = "UpdateItem", {"TableName": name, "Key": self.key()} | self.update()
        elif kind < 0.97:
            operation, body = "DeleteItem", {"TableName": name, "Key": self.key()}
        else:
            keys = {json.dumps(key): key for key in (self.key() for _ in range(rng.randint(2, 5)))}
            puts = [{"Put": {"TableName": name, "Item": self.item(key)}} for key in keys.values()]
            operation, body = "TransactWriteItems", {"TransactItems": puts}
        status, document = self.table.call(operation, body)
        if status != 200:
            raise Failed(f"the writer's {operation} is refused: {document}")
        self.written += len(body.get("TransactItems", [0]))

    def key(self):
        hot = self.rng.random() < 0.1
        n = self.rng.randrange(3) if hot else int(KEYS * self.rng.random() ** 3)
        return {"customer": {"S": f"customer-{n // 10:06}"}, "order": {"N": str(n)}}

    def update(self):
        values = {":one": {"N": "1"}, ":note": {"S": self.text(20, 200)}}
        return {"UpdateExpression": "SET note = :note ADD visits :one", "ExpressionAttributeValues": values}

    def item(self, key):
        rng = self.rng
        size = rng.choices([(10, 300), (4_000, 40_000), (200_000, 390_000)], [980, 19, 1])[0]
        number = f"{rng.randrange(10**18)}.{rng.randrange(1, 10**18):018}".rstrip("0")
        return key | {
            "note": {"S": self.text(*size)},
            "ledger": {"N": number},
            "photo": {"B": base64.b64encode(rng.randbytes(rng.randint(1, 60))).decode()},
            "open": {"BOOL": rng.random() < 0.5},
            "nothing": {"NULL": True},
            "tags": {"SS": sorted({self.text(1, 8) for _ in range(3)})},
            "sizes": {"NS": [str(n) for n in sorted({rng.randrange(100) for _ in range(3)})]},
            "marks": {"BS": [base64.b64encode(bytes([n])).decode() for n in sorted({rng.randrange(256) for _ in range(3)})]},
            "lines": {"L": [{"M": {"sku": {"S": self.text(5, 9)}, "quantity": {"N": str(rng.randrange(1, 20))}}}]},
            "title": {"S": rng.choice(['"quoted" \\ back', "Übergröße", "東京", "tab\tand\nline", "\U0001f69a"])},
        }

    def text(self, low, high):
        length = self.rng.randint(low, high)
        return self.rng.randbytes(length // 2 + 1).hex()[:length]


# The processes.


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Programs:
    """The binary, and every process of it that was started here."""

    def __init__(self, binary, directory):
        self.binary = binary
        self.directory = directory
        self.started = []
        foreign = ("AWS_", "DYNAFERRY_")
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(foreign) and not name.lower().endswith("_proxy")
        }
        self.env |= {
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_CONFIG_FILE": str(directory / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(directory / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self, arguments, stdout, stderr):
        process = subprocess.Popen(
            [self.binary, *arguments],
            cwd=self.directory,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end_all(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()  # Also ends what is frozen.
                process.wait()

    def start_sandbox(self, options):
        arguments = ["sandbox", "--listen", "127.0.0.1:0", "--items", str(ITEMS), "--seed", str(options.seed), "-o", "json"]
        arguments += ["--faults", str(options.faults)] if options.faults else []
        arguments += ["--shards", str(options.shards)] if options.shards else []
        with open(self.directory / "sandbox.log", "ab") as log:
            process = self.start(arguments, subprocess.PIPE, log)
        text = ""
        # The document is printed once it listens.
        for line in process.stdout:
            text += line.decode()
            try:
                return process, json.loads(text)
            except ValueError:
                continue
        raise Failed("the sandbox does not start")


CONFIG = """version = 1
[defaults.source]
region = "{region}"
endpoint_url = "{url}"
sts_endpoint_url = "{url}"
role_arn = "{source_role_arn}"
external_id = "{external_id}"
[defaults.target]
region = "{region}"
endpoint_url = "{url}"
sts_endpoint_url = "{url}"
role_arn = "{target_role_arn}"
external_id = "{external_id}"
[link.{table}]
source.table = "{table}"
target.table = "{table}"
target.create = true
load.segments = 16
apply.attempt_timeout = "2s"
# Longer than anything here can hold a write back; against AWS, leave the default of 16m.
apply.in_doubt_for = "{in_doubt_for}s"
apply.fence = "{fence}"
stream.discovery_interval = "5s"
verify.rate = "100%"
[checkpoint]
{state}
[service]
listen = "127.0.0.1:{port}"
"""


class Replicator:
    """One `dynaferry run`, and what it says about itself."""

    def __init__(self, programs, number, port):
        self.programs = programs
        self.number = number
        self.port = port
        self.process = None
        self.frozen = False
        self.link = None
        self.log = programs.directory / f"replicator-{number}.log"
        self.config = f"dynaferry-{number}.toml"

    def start(self):
        arguments = ["run", "-c", self.config, "--log-format", "text", "--color", "never", "--progress", "none"]
        with open(self.log, "ab") as log:
            self.process = self.programs.start(arguments, subprocess.DEVNULL, log)

    def look(self):
        """Asks it for its status, unless it cannot answer. Returns whether it did."""
        link = None if self.frozen else self.status()
        if link is not None:
            self.link = link
        return link is not None

    def holds_link(self):
        return self.link is not None and self.link["phase"] not in ("standby", "starting")

    def note(self, text):
        """Into its log, between its own lines."""
        with open(self.log, "a", encoding="utf-8") as log:
            print(f"{datetime.datetime.now(datetime.UTC).isoformat()}  SOAK  {text}", file=log)

    def status(self):
        """The link's part of its status; None while it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/api/v1/status")
            document = json.loads(connection.getresponse().read())
            return document["links"][0]
        except (OSError, http.client.HTTPException, ValueError, LookupError):
            return None
        finally:
            connection.close()

    def last_words(self):
        with open(self.log, "rb") as log:
            log.seek(max(0, os.path.getsize(self.log) - 4000))
            return log.read().decode(errors="replace")


class Soak:
    """Everything together."""

    def __init__(self, options, directory):
        self.options = options
        self.rng = random.Random(f"supervisor {options.seed}")
        self.weather = Weather(random.Random(f"weather {options.seed}"))
        self.programs = Programs(options.binary, directory)
        self.figures = self.weather.figures
        self.begun = time.monotonic()
        self.behind_since = None
        self.behind_at = 0.0
        self.catch_ups = []
        self.most_in_doubt = 0
        self.gaps = set()
        self.trouble = []
        self.counts = collections.Counter()

    @property
    def link(self):
        """What the worker says that holds the link, if there is one."""
        return next((worker.link for worker in self.workers if worker.holds_link()), None)

    async def run(self):
        options, programs = self.options, self.programs
        self.sandbox, world = programs.start_sandbox(options)
        upstream = int(world["endpoint_url"].rsplit(":", 1)[1])
        programs.env |= {"AWS_ACCESS_KEY_ID": world["source_account"]}
        self.source = Table(upstream, world["source_account"], world)
        self.target = Table(upstream, world["target_account"], world)
        proxy = await serve_proxy(self.weather, upstream)
        url = "http://127.0.0.1:{}".format(proxy.sockets[0].getsockname()[1])
        state = 'store = "file:./state.redb"'
        if options.workers > 1:
            state = f'store = "dynamodb:dynaferry-state"\nlease = "{options.lease}s"\n'
            state += f"sharing = {str(options.sharing).lower()}"
        fence = "transaction" if options.fence else "none"
        self.workers = [Replicator(programs, number, free_port()) for number in range(options.workers)]
        for worker in self.workers:
            config = CONFIG.format(url=url, port=worker.port, state=state, in_doubt_for=IN_DOUBT_FOR, fence=fence, **world)
            (programs.directory / worker.config).write_text(config)
        self.writer = Writer(Table(upstream, world["source_account"], world), options.rate, options.seed)

        for worker in self.workers:
            worker.start()
        if options.sharing:
            await self.divided()
        self.fall_behind()
        self.writer.start()
        blowing = asyncio.create_task(asyncio.sleep(0) if options.calm else self.weather.blow())
        looking = self.looking = asyncio.create_task(self.look())
        try:
            await self.beat_until(self.begun + options.minutes * 60)
            say("calm: the writer and the faults of the network end")
            blowing.cancel()
            self.weather.become_calm()
            self.writer.ended.set()
            await asyncio.to_thread(self.writer.join)
            self.check_processes()
            await self.drain(time.time())
        finally:
            self.writer.ended.set()
            for task in (blowing, looking):
                task.cancel()
        await self.end_workers()
        await asyncio.to_thread(self.compare)
        proxy.close()

    async def divided(self):
        """Waits until the workers share the link."""
        end = time.monotonic() + DIVIDED_WITHIN
        while not self.said(DIVIDED):
            await asyncio.sleep(1.0)
            if time.monotonic() > end:
                raise Failed(f"the link is not divided after {DIVIDED_WITHIN:.0f} s")
        self.begun = time.monotonic()

    def said(self, text):
        """How often the workers have logged this; the logs may be gone at the end."""
        if all(worker.log.exists() for worker in self.workers):
            self.counts[text] = sum(worker.log.read_bytes().count(text) for worker in self.workers)
        return self.counts[text]

    # The workers' hard life.

    async def beat_until(self, end):
        told = time.monotonic()
        due = time.monotonic() + self.rng.uniform(*FIRST_BLOW)
        while time.monotonic() < end:
            await asyncio.sleep(0.2)
            self.check_processes()
            if time.monotonic() >= due:
                await self.blow()
                due = time.monotonic() + self.rng.uniform(*self.options.blows)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                say(self.describe())

    async def blow(self):
        blow = self.rng.choices(["kill", "freeze", "freeze_and_kill", "stop"], [50, 35, 7, 8])[0]
        holders = [worker for worker in self.workers if worker.holds_link()]
        worker = self.rng.choice(holders if holders and self.rng.random() < 0.6 else self.workers)
        process = worker.process
        frozen = self.rng.uniform(1.0, MAX_FROZEN)
        if blow.startswith("freeze"):
            worker.note(f"frozen for {frozen:.1f} s")
            self.figures["freezes"] += 1
            was_holder, worker.frozen, worker.link = self.has_shards(worker), True, None
            process.send_signal(signal.SIGSTOP)
            if was_holder and len(self.workers) > 1:
                self.fall_behind()
            await asyncio.sleep(frozen)
            if blow == "freeze":
                process.send_signal(signal.SIGCONT)
                worker.frozen = False
                return
        if blow == "stop":
            self.figures["stops"] += 1
            worker.note("SIGTERM")
            process.send_signal(signal.SIGTERM)
            try:
                code = await asyncio.to_thread(process.wait, 60)
                if code != 0:
                    self.complain(worker, f"after SIGTERM it ended with {code}")
            except subprocess.TimeoutExpired:
                self.complain(worker, "60 s after SIGTERM it still runs")
                process.kill()
        else:
            self.figures["kills"] += 1
            worker.note("SIGKILL")
            process.kill()
        await asyncio.to_thread(process.wait)
        was_holder, worker.frozen, worker.link = self.has_shards(worker), False, None
        if was_holder:
            self.fall_behind()
        await asyncio.sleep(self.rng.choice([0.0, self.rng.uniform(0.0, 6.0)]))
        self.restart(worker)

    def has_shards(self, worker):
        """Whether others fall behind without it, as far as is known."""
        return self.options.sharing or worker.holds_link()

    def restart(self, worker):
        self.figures["restarts"] += 1
        worker.start()
        self.fall_behind()

    def fall_behind(self):
        """From now on it is waited for, unless it still is."""
        if self.behind_since is None:
            self.behind_since, self.behind_at = time.monotonic(), time.time()

    def check_processes(self):
        if self.sandbox.poll() is not None:
            raise Failed(f"the sandbox ended with {self.sandbox.returncode}")
        if self.looking.done():
            raise Failed(f"nobody looks any more: {self.looking.exception()!r}")
        if self.writer.error:
            raise Failed(f"the writer failed: {self.writer.error!r}")
        for worker in self.workers:
            code = worker.process.poll()
            if code is not None:
                self.complain(worker, f"it ended by itself with {code}")
                self.restart(worker)
        if self.behind_since and time.monotonic() - self.behind_since > HUNG_AFTER:
            raise Failed(f"it has not caught up for {HUNG_AFTER:.0f} s: {json.dumps(self.link)}")

    def complain(self, worker, text):
        say(f"TROUBLE: worker {worker.number}: {text}\n{worker.last_words()}")
        worker.note(f"TROUBLE: {text}")
        self.trouble.append(text)
        if len(self.trouble) > 20:
            raise Failed("too much trouble")

    async def look(self):
        """What the workers say, as they go."""
        while True:
            await asyncio.sleep(0.3 / len(self.workers))
            answered = await asyncio.gather(*(asyncio.to_thread(worker.look) for worker in self.workers))
            for worker in (worker for worker, has_answered in zip(self.workers, answered) if has_answered):
                link = worker.link
                if link is None:
                    # It was hit since it answered.
                    continue
                if self.options.fence and link["in_doubt"] > self.most_in_doubt:
                    self.complain(worker, f"{link['in_doubt']} keys are in doubt behind a fence")
                self.most_in_doubt = max(self.most_in_doubt, link["in_doubt"])
                for gap in link["gaps"]:
                    if (gap_text := json.dumps(gap)) not in self.gaps:
                        self.gaps.add(gap_text)
                        say(f"a gap: {gap_text}")
                if self.behind_since and has_applied(link, self.behind_at):
                    took = time.monotonic() - self.behind_since
                    self.catch_ups.append(took)
                    worker.note(f"caught up in {took:.1f} s")
                    self.behind_since = None

    async def drain(self, last_write):
        end = time.monotonic() + CATCH_UP_WITHIN
        told = time.monotonic()
        while not (self.link and has_applied(self.link, last_write) and self.link["in_doubt"] == 0 and not self.link["gaps"]):
            await asyncio.sleep(0.3)
            self.check_processes()
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(self.describe())
            if time.monotonic() > end:
                raise Failed(f"not everything arrived within {CATCH_UP_WITHIN:.0f} s: {json.dumps(self.link)}")
        say(f"everything has arrived {time.time() - last_write:.1f} s after the last write")

    async def end_workers(self):
        for worker in self.workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            code = await asyncio.to_thread(worker.process.wait, 60)
            if code != 0:
                self.complain(worker, f"after the last SIGTERM it ended with {code}")

    def compare(self):
        arguments = ["verify", "-c", self.workers[0].config, "-o", "json", "--quiet", "--report", "differences.ndjson"]
        with open(self.programs.directory / "verify.log", "ab") as log:
            process = self.programs.start(arguments, subprocess.PIPE, log)
        document = process.communicate(timeout=300)[0].decode()
        say(f"verify: exit {process.returncode}: {' '.join(document.split())}")
        # Nothing that was held back anywhere may still change the target.
        time.sleep(MAX_HELD + MAX_LATE)
        source, target = self.source.scan(), self.target.scan()
        differing = sorted(key for key in source.keys() | target.keys() if source.get(key) != target.get(key))
        say(f"scans: {len(source)} items at the source, {len(target)} at the target, {len(differing)} keys differ")
        for key in differing[:10]:
            say(f"differs: {key}: source {str(source.get(key))[:300]}; target {str(target.get(key))[:300]}")
        if process.returncode != 0 or not json.loads(document)["identical"]:
            raise Failed("verify does not find the tables identical")
        if differing:
            raise Failed("the tables differ")

    def describe(self):
        minutes = (time.monotonic() - self.begun) / 60
        link = self.link or {"phase": "down", "lag_seconds": None, "in_doubt": 0}
        lag = "not known" if link["lag_seconds"] is None else f"{link['lag_seconds']:.1f} s"
        return f"{self.summary(minutes)}; now {link['phase']}, lag {lag}, {link['in_doubt']} in doubt"

    def summary(self, minutes):
        names = ["kills", "freezes", "stops", "restarts", "cuts", "black_holes", "delays", "refusals", "late"]
        events = ", ".join(f"{self.figures[name]} {name.replace('_', ' ')}" for name in names)
        catch_ups = sorted(self.catch_ups) or [0.0]
        shared = f"{self.said(DIVIDED)} times divided, {self.said(WHOLE)} times whole again, " if self.options.sharing else ""
        caught_up = f"caught up in {catch_ups[len(catch_ups) // 2]:.1f} s (median), {catch_ups[-1]:.1f} s (worst)"
        return (
            f"{minutes:.1f} minutes, {self.writer.written} writes, {events}, {caught_up}, {shared}"
            f"{len(self.gaps)} gaps, {self.most_in_doubt} keys in doubt at most, {len(self.trouble)} troubles"
        )


def has_applied(link, since):
    """Whether everything written before that time (seconds since 1970) was applied."""
    applied = link["watermark"]["applied"]
    if link["phase"] != "replicating" or applied is None:
        return False
    return datetime.datetime.fromisoformat(applied).timestamp() > since


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long it is beaten [30]")
    parser.add_argument("--seed", type=int, default=0, help="of everything random [0]")
    parser.add_argument("--rate", type=float, default=150.0, help="writes a second at most [150]")
    parser.add_argument("--faults", type=float, default=0.05, help="share of requests that the sandbox breaks [0.05]")
    parser.add_argument("--binary", default="target/release/dynaferry", help="[target/release/dynaferry]")
    parser.add_argument("--workers", type=int, default=1, help="processes; with more than 1 their state is in a table [1]")
    parser.add_argument("--lease", type=int, default=5, help="of several workers, seconds [5]")
    parser.add_argument("--shards", type=int, default=0, help="open shards of the source's stream [the sandbox's own]")
    parser.add_argument("--blows", type=float, nargs=2, default=BETWEEN_BLOWS, metavar=("LEAST", "MOST"),
                        help="seconds from one blow to the next [20 60]")
    parser.add_argument("--fence", action="store_true", help="of several workers: every write goes through a gate")
    parser.add_argument("--sharing", action="store_true", help="of several workers: they share the shards of the link")
    parser.add_argument("--calm", action="store_true", help="leave the network alone")
    parser.add_argument("--keep", action="store_true", help="keep the logs also if all is well")
    options = parser.parse_args()
    options.binary = str(pathlib.Path(options.binary).resolve())
    if options.workers < 2 and (options.fence or options.sharing):
        parser.error("--fence and --sharing need --workers: they are in a table")
    if options.fence and options.sharing:
        parser.error("--fence does not go with --sharing")

    directory = pathlib.Path(tempfile.mkdtemp(prefix="dynaferry-soak-"))
    say(f"{options.minutes:g} minutes, seed {options.seed}, {options.rate:g} writes/s, logs in {directory}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    soak = Soak(options, directory)
    verdict = "identical"
    try:
        asyncio.run(soak.run())
        if soak.trouble or soak.gaps:
            verdict = "identical, but not without trouble"
    except Failed as error:
        verdict = f"FAILED: {error}"
    except subprocess.TimeoutExpired as error:
        verdict = f"FAILED: {error}"
    finally:
        soak.programs.end_all()
    if verdict == "identical" and not options.keep:
        shutil.rmtree(directory)
    else:
        say(f"logs are in {directory}")
    print(f"{soak.summary(options.minutes)}, {verdict}", flush=True)
    sys.exit(0 if verdict == "identical" else 1)


if __name__ == "__main__":
    main()
