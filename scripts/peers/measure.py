"""The clock around the launches: kvbench's protocol for a device, over whatever a peer launches."""

import contextlib
import statistics

from peers import data, rows, turns

ROTATE_L2 = 5  # a rotation holds at least so many times the L2, so that no launch finds its cache there
WINDOW_NS = 200_000  # shortest window between two events, which tell half a microsecond
MOST_LAUNCHES = 64  # in one window, unless one turn of the rotation has more
WARM_LAUNCHES = 3  # before a capture, on its own stream
WARM_TURNS = 3  # of all peers before the first sample


def graph_of(torch, launch, launches, copies):
    """A graph of launches over the rotated copies, and the outputs of its last turn."""
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(WARM_LAUNCHES):
            launch(0)
    torch.cuda.synchronize()
    graph, outs = torch.cuda.CUDAGraph(), [None] * copies
    with torch.cuda.graph(graph):
        for i in range(launches):
            outs[i % copies] = launch(i % copies)
    return graph, outs


def replay_ns(torch, graph, launches):
    """Nanoseconds a launch."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e6 / launches


def launches_of(each_ns, copies):
    """Whole turns of the rotation that fill the window, so that every replay begins where the cache is coldest."""
    wanted = min(max(1, -(-WINDOW_NS // max(1, round(each_ns)))), MOST_LAUNCHES)
    most = max(1, MOST_LAUNCHES // copies)
    return copies * min(-(-wanted // copies), most)


def check(entrant, outs, found):
    """Holds the outputs of every copy, sequence and head to the reference; throws where they are wrong."""
    worst = [data.worst_error(out, expected) for out, expected in zip(outs, found.expected)]
    error = next((one for one in worst if one != one), max(worst))
    entrant.found.update(max_rel_err=error, verified=error <= data.GATE)
    if not entrant.found["verified"]:
        raise ValueError(f"verification failed: expected a relative error of at most {data.GATE}, got {error:.3g}")


@contextlib.contextmanager
def guarded(torch, entrant):
    """Whatever a peer throws belongs into its row."""
    try:
        yield
    except Exception as error:
        entrant.err = rows.text(error)
        with contextlib.suppress(Exception):  # throws again if the device's context is lost
            torch.cuda.synchronize()


def enter(torch, peer, found, facts):
    """A peer that is checked and captured, or that says in `err` why not."""
    entrant = turns.Entrant(peer.method, peer.name, {"n_sm": facts.multi_processor_count})
    copies = len(found.copies)
    with guarded(torch, entrant):
        launch, entrant.backend = peer.prepare(torch, found, facts.multi_processor_count)
        check(entrant, (launch(i) for i in range(copies)), found)
        probe, _ = graph_of(torch, launch, copies, copies)
        replay_ns(torch, probe, copies)
        launches = launches_of(replay_ns(torch, probe, copies), copies)
        graph, outs = graph_of(torch, launch, launches, copies)
        entrant.found["launches"] = launches
        entrant.replay_ns = lambda: replay_ns(torch, graph, launches)
        entrant.keeps = (launch, outs)
    return entrant


def check_again(torch, entrant, found):
    """What the replays left behind, after all peers took their turns: a graph whose memory another peer took shows here."""
    with guarded(torch, entrant):
        check(entrant, entrant.keeps[1], found)
    if entrant.err is not None:
        entrant.times_ns.clear()


def measure(torch, shape, chosen, samples):
    """Entrants of all chosen peers at one shape, sampled in turns."""
    facts = torch.cuda.get_device_properties(0)
    chosen = [peer for peer in chosen if shape.op in peer.ops]
    try:
        copies = max(1, -(-ROTATE_L2 * facts.L2_cache_size // shape.bytes_moved))
        found = data.Data(torch, shape.heads, [shape.kv_len] * shape.batch, shape.q_len, copies, "cuda")
        _ = found.expected
    except Exception as error:  # out of memory, or the context is lost: no peer can be held to anything
        return [turns.Entrant(peer.method, peer.name, err=rows.text(error)) for peer in chosen]
    entrants = [enter(torch, peer, found, facts) for peer in chosen]
    turns.take_turns(entrants, WARM_TURNS, keep=False)
    turns.take_turns(entrants, samples)
    for entrant in entrants:
        if entrant.err is None:
            check_again(torch, entrant, found)
    return entrants


def line(shape, entrant):
    """What the terminal says of one peer at one shape."""
    said = []
    if entrant.times_ns:
        median = statistics.median(entrant.times_ns)
        rate = f"{shape.bytes_moved / median:.0f} GB/s" if shape.op == "decode" else f"{shape.flops / median / 1e3:.0f} TFLOP/s"
        said.append(f"{median / 1e3:.1f} us, {rate}, error {entrant.found['max_rel_err']:.1e}")
    if entrant.err is not None:
        said.append(entrant.err.splitlines()[0])
    return f"{shape.model} {shape.workload} {entrant.method}: {'; '.join(said)}"
