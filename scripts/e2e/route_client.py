#!/usr/bin/env python3
"""Requests through the live router, while one of its engines is killed and comes back.

    scripts/e2e/route_client.py URL --engine NAME=URL --engine NAME=URL [--requests N] [--orders FILE]

Standard library alone. It writes `kill` into the orders' file when two fifths of the requests are answered and `start` when three
fifths are; the rest waits until the router has seen the engine's breaker open, and requests go on until that has closed. Each answer
is compared with one of a direct call to the engine that the decision names, asked at temperature 0; ids, times and speeds differ from
call to call and are left out. Exits 1 with a sentence when something is not as it should be.
"""

import argparse
import asyncio
import json
import re
import sys
import urllib.parse
import urllib.request

CONCURRENCY = 8
GIVE_UP_S = 60
VOLATILE = {"id", "created", "timings", "system_fingerprint"}
STARTS = ["Once upon a time", "One day a girl", "The little dog", "Tom and Lily", "In a big forest", "A red ball", "The sun was", "Mom said"]


def fail(text):
    sys.exit(f"route_client: {text}")


def body_of(number):
    prompt = f"{STARTS[number % len(STARTS)]} {'and then ' * (number // len(STARTS) % 5)}"
    ask = {"prompt": prompt.strip(), "max_tokens": 8 + number % 24, "temperature": 0, "seed": 1, "stream": number % 2 == 0}
    # The same computation, whatever the engine had in its cache from others.
    return json.dumps({**ask, "cache_prompt": False}).encode()


async def post(url, body):
    """Status, the decision and the bytes of an answer; raises OSError or EOFError where the connection breaks."""
    parts = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        return await read(reader)
    finally:
        writer.close()


async def read(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if "chunked" in fields.get("transfer-encoding", ""):
        body = b""
        # Not `readline`, which returns at the end of a connection instead of raising.
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(fields["content-length"]))
    return int(head[0].split()[1]), fields.get("x-kvbench-decision", ""), body


def stable(body):
    """What an answer says, without what differs from call to call."""
    texts = re.findall(rb"^data: (\{.*\})$", body, re.M) or [body]
    return [{key: value for key, value in json.loads(text).items() if key not in VOLATILE} for text in texts]


def metric(url, name, engine):
    text = urllib.request.urlopen(f"{url}/metrics", timeout=60).read().decode()
    found = re.search(rf'^kvbench_route_{name}{{engine="{engine}"}} (\S+)$', text, re.M)
    return float(found.group(1)) if found else 0.0


class Asker:
    def __init__(self, url, args):
        self.url, self.args, self.answers, self.broken = url, args, {}, []

    async def one(self, number):
        try:
            status, decision, body = await asyncio.wait_for(post(self.url, body_of(number)), GIVE_UP_S)
        except TimeoutError:
            fail(f"request {number}: expected an answer within {GIVE_UP_S} s, got none; {await asyncio.to_thread(self.inside)}")
        except (OSError, EOFError) as error:
            # An answer that had begun when its engine died; one that had not begun would have an answer of another engine.
            self.broken.append((number, repr(error)))
            return
        if status != 200:
            fail(f"request {number}: expected status 200, got {status}: {body[:300]!r}")
        engine = re.match(r"engine=([-a-z0-9]+); ", decision)
        if not engine:
            fail(f"request {number}: expected a decision, got {decision!r}")
        self.answers[number] = (engine.group(1), body)

    def inside(self):
        """What the router and the engines say of their load, for the search for a request that hangs."""
        said = []
        for url in [self.url, *(pair.split("=", 1)[1] for pair in self.args.engine)]:
            try:
                lines = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode().splitlines()
                said += [line for line in lines if re.match(r"kvbench_route_(engine|in_work|upstream|breaker_s)|llamacpp:requests", line)]
            except OSError as error:
                said.append(f"{url}: {error}")
        return said

    async def some(self, numbers):
        waiting = list(numbers)[::-1]

        async def worker():
            while waiting:
                await self.one(waiting.pop())

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))

    def order(self, word):
        with open(self.args.orders, "a", encoding="utf-8") as file:
            file.write(f"{word}\n")


async def until(what, condition, meanwhile=None):
    for _ in range(1200):
        if await asyncio.to_thread(condition):
            return
        await (meanwhile() if meanwhile else asyncio.sleep(0.1))
    fail(f"expected {what}, and waited in vain")


async def main(args):
    engines = dict(pair.split("=", 1) for pair in args.engine)
    victim = list(engines)[-1]
    n = args.requests
    asker = Asker(args.url, args)
    await asker.some(range(0, n * 2 // 5))
    if asker.broken:
        fail(f"expected every answer whole while both engines were up, got {asker.broken[:3]}")
    running = asyncio.create_task(asker.some(range(n * 2 // 5, n * 3 // 5)))
    asker.order("kill")
    await running
    await until("the breaker to open", lambda: metric(args.url, "breaker_opened_total", victim) >= 1)
    asker.order("start")
    last = iter(range(n * 3 // 5, n))
    closed = lambda: metric(args.url, "breaker_closed_total", victim) >= 1
    step = [0]

    async def meanwhile():
        # One request at a time is what tries a breaker; some are kept for afterwards.
        number = next(last) if step[0] < n // 5 else None
        step[0] += 1
        await (asker.one(number) if number is not None else asyncio.sleep(0.2))
        await asyncio.sleep(0.05)

    await until("the breaker to close", closed, meanwhile)
    await asker.some(last)
    if len(asker.answers) + len(asker.broken) != n or len(asker.broken) > CONCURRENCY:
        fail(f"expected {n} answers, of which at most {CONCURRENCY} broke with their engine, got {len(asker.answers)} and {asker.broken}")
    await compare(asker, engines)


async def compare(asker, engines):
    shares, different, limit = dict.fromkeys(engines, 0), [], asyncio.Semaphore(CONCURRENCY)

    async def one(number, engine, body):
        async with limit:
            status, _, direct = await post(engines[engine], body_of(number))
        shares[engine] += 1
        if status != 200 or stable(direct) != stable(body):
            different.append((number, engine))

    await asyncio.gather(*(one(number, *answer) for number, answer in sorted(asker.answers.items())))
    if different:
        number, engine = different[0]
        fail(f"expected answers of direct calls, got {len(different)} others, the first for request {number} at {engine}")
    if not all(shares.values()):
        fail(f"expected a part of the requests at every engine, got {shares}")
    print(f"{len(asker.answers)} answers equal those of direct calls, {len(asker.broken)} broke off with the engine that was killed; {shares}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--engine", action="append", required=True)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--orders", required=True)
    asyncio.run(main(parser.parse_args()))
