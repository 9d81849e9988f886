"""A paged flash-decoding kernel in Triton: what a good engineer writes in a day, as a yardstick that comes with the project.

Stage 1: one program takes one KV head of one sequence over one split of its tokens. All query heads of that KV head ride along as
the rows of one matrix, so that every key and value is read once. Stage 2 merges the splits of a sequence. A batch that fills
the GPU without splits needs no stage 2: stage 1 then writes the outputs.

Layouts: q, out [batch][Hq][D]; pools [pages][Hkv][16][D]; table [batch][pages of the longest]; fp16, lengths and table int32.
"""

import triton
import triton.language as tl

from peers.data import PAGE_TOKENS

TILE_TOKENS = 64  # a step of the inner loop: 16 KiB of keys and 16 KiB of values
PIPELINE_STAGES = 5  # keys wait for the page table, so that five stages make two buffers of each: 70 KiB of shared memory
WARPS = 4
PROGRAMS_PER_SM = 2  # enough bytes in flight to fill the memory, on Hopper and on Ampere; more would need more splits
MOST_SPLITS = 256
SPLIT_COST_TOKENS = 128  # what starting a program and merging its result costs, in tokens that it could have read
LEAST_ROWS = 16  # tl.dot takes no fewer
MERGED_AT_ONCE = 16  # splits in one step of the merge
LOG2_E = 1.4426950408889634


@triton.jit
def attend_split(
    q, k_pool, v_pool, table, lengths, out, part_out, part_lse, scale_log2, split_tokens, n_splits, table_width,
    HEADS_KV: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr,
    SINGLE: tl.constexpr,
):
    """Stage 1: softmax over one split. Writes its normalised output and the log2 of its sum, or with SINGLE the end result."""
    split, head, seq = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin = split * split_tokens
    end = tl.minimum(begin + split_tokens, tl.load(lengths + seq))
    if begin >= end:
        return  # stage 2 knows from the length that this split is empty
    rows, dims, steps = tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, TILE)
    used = rows < GROUP
    head_q = (seq * HEADS_KV + head) * GROUP + rows
    queries = tl.load(q + head_q[:, None] * D + dims[None, :], mask=used[:, None], other=0.0)
    pages = table + seq * table_width
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, D], tl.float32)
    for start in range(begin, end, TILE):
        tokens = start + steps
        inside = tokens < end
        page = tl.load(pages + tokens // PAGE, mask=inside, other=0).to(tl.int64)
        at = ((page * HEADS_KV + head) * PAGE + tokens % PAGE) * D
        keys = tl.load(k_pool + at[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys)) * scale_log2
        scores = tl.where(inside[None, :], scores, float("-inf"))
        # The first token of a step is always inside, so `higher` is finite from the first step on.
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        values = tl.load(v_pool + at[:, None] + dims[None, :], mask=inside[:, None], other=0.0)
        result = tl.dot(weights.to(tl.float16), values, result * fade[:, None])
        top = higher
    result = result / total[:, None]
    if SINGLE:
        tl.store(out + head_q[:, None] * D + dims[None, :], result.to(tl.float16), mask=used[:, None])
    else:
        place = head_q * n_splits + split
        tl.store(part_out + place[:, None] * D + dims[None, :], result, mask=used[:, None])
        tl.store(part_lse + place, top + tl.log2(total), mask=used)


@triton.jit
def merge_splits(
    part_out, part_lse, lengths, out, split_tokens, n_splits,
    HEADS_Q: tl.constexpr, D: tl.constexpr, AT_ONCE: tl.constexpr,
):
    """Stage 2: one program weighs the splits of one query head by their sums."""
    head, seq = tl.program_id(0), tl.program_id(1)
    filled = tl.cdiv(tl.load(lengths + seq), split_tokens)
    row = seq * HEADS_Q + head
    dims = tl.arange(0, D)
    top = float("-inf")
    total = 0.0
    result = tl.zeros([D], tl.float32)
    for start in range(0, filled, AT_ONCE):
        splits = start + tl.arange(0, AT_ONCE)
        there = splits < filled
        place = row * n_splits + splits
        sums = tl.load(part_lse + place, mask=there, other=float("-inf"))
        parts = tl.load(part_out + place[:, None] * D + dims[None, :], mask=there[:, None], other=0.0)
        higher = tl.maximum(top, tl.max(sums, 0))
        weights = tl.exp2(sums - higher)
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 0)
        result = result * fade + tl.sum(weights[:, None] * parts, 0)
        top = higher
    tl.store(out + row * D + dims, (result / total).to(tl.float16))


def split_tokens(lengths, heads_kv, n_sm):
    """Tokens a split, for the shortest time of the whole batch: waves of programs times what the slowest of a wave reads.

    Splits have one length for the whole batch, so that of a ragged batch the long sequences get more of them.
    """
    longest, room = max(lengths), n_sm * PROGRAMS_PER_SM
    choices = {-(-longest // (n * TILE_TOKENS)) * TILE_TOKENS for n in range(1, MOST_SPLITS + 1)}

    def cost(tokens):
        programs = heads_kv * sum(-(-length // tokens) for length in lengths)
        return -(-programs // room) * (min(tokens, longest) + SPLIT_COST_TOKENS)

    return min(sorted(choices, reverse=True), key=cost)


class Decode:
    """Split and room for partial results, fixed for one batch of lengths; launches may be captured in a graph."""

    def __init__(self, torch, lengths, heads, n_sm, device):
        self.heads_q, self.heads_kv, self.d = heads
        if min(lengths) < 1:
            raise ValueError(f"expected every sequence to hold a token, got lengths {lengths}")
        self.batch = len(lengths)
        self.split_tokens = split_tokens(lengths, self.heads_kv, n_sm)
        self.n_splits = -(-max(lengths) // self.split_tokens)
        rows = (self.batch * self.heads_q * self.n_splits) if self.n_splits > 1 else 1
        self.part_out = torch.full((rows, self.d), float("nan"), dtype=torch.float32, device=device)
        self.part_lse = torch.full((rows,), float("nan"), dtype=torch.float32, device=device)

    def __call__(self, paged, out):
        group = self.heads_q // self.heads_kv
        attend_split[(self.n_splits, self.heads_kv, self.batch)](
            paged.q, paged.k_pool, paged.v_pool, paged.table, paged.lengths, out, self.part_out, self.part_lse,
            LOG2_E / self.d**0.5, self.split_tokens, self.n_splits, paged.table.shape[1],
            HEADS_KV=self.heads_kv, GROUP=group, ROWS=max(LEAST_ROWS, triton.next_power_of_2(group)), D=self.d,
            PAGE=PAGE_TOKENS, TILE=TILE_TOKENS, SINGLE=self.n_splits == 1, num_warps=WARPS, num_stages=PIPELINE_STAGES,
        )
        if self.n_splits > 1:
            merge_splits[(self.heads_q, self.batch)](
                self.part_out, self.part_lse, paged.lengths, out, self.split_tokens, self.n_splits,
                HEADS_Q=self.heads_q, D=self.d, AT_ONCE=MERGED_AT_ONCE, num_warps=WARPS,
            )
        return out


def prepare(torch, data, n_sm):
    """Makes `launch(copy)`."""
    decode = Decode(torch, data.lengths, data.heads, n_sm, data.paged[0].q.device)
    outs = [torch.full_like(copy.q, float("nan")) for copy in data.paged]

    def launch(copy):
        return decode(data.paged[copy], outs[copy])[:, :, None]

    return launch, f"triton-{triton.__version__}"
