"""Random caches, the same numbers contiguous and paged, and attention over them in float32 or float64."""

import functools
import typing

PAGE_TOKENS = 16
SPARE_PAGES = 8  # in no page table, full of NaN: whoever reads past a table is seen
SEED = 1
GATE = 2e-3  # fp16 rounding stays below a quarter of it; one token of 16384 left out is 8e-3


class Paged(typing.NamedTuple):
    """A batch in pages: queries [batch][Hq][D], pools [pages][Hkv][16][D], table [batch][pages of the longest]."""

    q: typing.Any
    k_pool: typing.Any
    v_pool: typing.Any
    table: typing.Any
    lengths: typing.Any


class Data:
    """Copies of one shape: contiguous (q, k, v) of [batch][heads][tokens][D], and the same in shuffled pages on demand."""

    def __init__(self, torch, heads, lengths, q_len, copies, device):
        self.torch, self.heads, self.lengths, self.q_len = torch, heads, lengths, q_len
        heads_q, heads_kv, d = heads
        random = torch.Generator(device).manual_seed(SEED)

        def make(n, length):
            return torch.randn(len(lengths), n, length, d, generator=random, device=device, dtype=torch.float16)

        longest = max(lengths)
        self.copies = [
            (make(heads_q, q_len), make(heads_kv, longest), make(heads_kv, longest)) for _ in range(copies)
        ]

    @functools.cached_property
    def paged(self):
        """Every copy has its own table, as in kvbench: a table that stays in the L2 would be a gift."""
        return [paged(self.torch, q[:, :, 0], k, v, self.lengths, SEED + i) for i, (q, k, v) in enumerate(self.copies)]

    @functools.cached_property
    def expected(self):
        """Attention in float32 over every copy."""
        causal = self.q_len > 1
        return [reference(self.torch, *copy, self.lengths, self.torch.float32, causal) for copy in self.copies]


def paged(torch, q, k, v, lengths, seed):
    """Puts contiguous keys and values into shuffled pages; slots past a sequence's end are NaN."""
    batch, heads_kv, longest, d = k.shape
    pages = -(-longest // PAGE_TOKENS)
    total = batch * pages
    shuffled = torch.randperm(total + SPARE_PAGES, generator=torch.Generator().manual_seed(seed))[:total]
    table = shuffled.to(k.device).view(batch, pages)
    lengths = torch.tensor(lengths, device=k.device)

    def pool(x):
        filled = x.new_full((batch, heads_kv, pages * PAGE_TOKENS, d), float("nan"))
        filled[:, :, :longest] = x
        past = torch.arange(pages * PAGE_TOKENS, device=x.device) >= lengths[:, None]
        filled.masked_fill_(past[:, None, :, None], float("nan"))
        out = x.new_full((total + SPARE_PAGES, heads_kv, PAGE_TOKENS, d), float("nan"))
        filled = filled.view(batch, heads_kv, pages, PAGE_TOKENS, d).transpose(1, 2)
        out[table.flatten()] = filled.reshape(total, heads_kv, PAGE_TOKENS, d)
        return out

    return Paged(q.contiguous(), pool(k), pool(v), table.int(), lengths.int())


def reference(torch, q, k, v, lengths, dtype, causal):
    """Attention of all sequences and heads, one sequence at a time: more would not fit beside a large cache in `dtype`."""
    batch, heads_q, q_len, d = q.shape
    out = torch.empty(q.shape, dtype=dtype, device=q.device)
    for i in range(batch):
        keys, values = (x[i, :, : lengths[i]].to(dtype) for x in (k, v))
        queries = q[i].to(dtype).view(keys.shape[0], -1, q_len, d)
        scores = queries @ keys[:, None].transpose(-1, -2) / d**0.5
        if causal:
            scores.masked_fill_(torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1), float("-inf"))
        out[i] = (torch.softmax(scores, -1) @ values[:, None]).view(heads_q, q_len, d)
    return out


def worst_error(got, expected):
    """Relative L2 error of the worst (sequence, query head); NaN if anything is NaN."""
    difference = (got.to(expected.dtype) - expected).flatten(2).norm(dim=-1)
    return (difference / expected.flatten(2).norm(dim=-1)).max().item()
