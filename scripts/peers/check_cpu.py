"""The paged peers without a GPU: Triton's interpreter runs the decode on CPU tensors, held against float64.

That covers page tables, ragged ends, splits, their merge and the packing of heads. It does not cover what the compiler makes of the
kernel, nor races; the check on the device before every timing does.
"""

import os

import peers.data as paging

GATE = paging.GATE
D = 128

# Query heads, KV heads, SMs to fill (many mean more splits), lengths (on, before and past the ends of pages and tiles).
CASES = [
    (8, 2, 12, [130, 1, 64, 257, 16, 97]),
    (4, 4, 24, [33, 200, 15, 192]),
    (16, 2, 6, [321, 48]),
    (32, 8, 64, [450, 3]),
    (32, 32, 1, [70, 65]),
    (8, 2, 600, [1200, 1]),
    (4, 1, 1, [64]),
]


def wrong_references(torch, copy, lengths):
    """What attention would be with a mistake of a kind that kernels make; each must be far beyond the gate."""
    q, k, v = copy
    shorter = [max(1, length - 1) for length in lengths]
    yield "the last token left out", paging.reference(torch, q, k, v, shorter, torch.float64, False)
    if k.shape[1] > 1:
        yield "KV heads shifted by one", paging.reference(torch, q, k.roll(1, 1), v, lengths, torch.float64, False)
    swapped = v.clone()
    page = paging.PAGE_TOKENS
    longest = lengths.index(max(lengths))
    swapped[longest, :, :page], swapped[longest, :, page : 2 * page] = v[longest, :, page : 2 * page], v[longest, :, :page]
    yield "two pages of values swapped", paging.reference(torch, q, k, swapped, lengths, torch.float64, False)


def check_reference(torch):
    """The reference itself, against torch's own attention in float64."""
    found = paging.Data(torch, (6, 2, D), [40, 40], 40, 1, "cpu")
    q, k, v = found.copies[0]
    for causal, queries in ((True, q), (False, q[:, :, :1])):
        wanted = torch.nn.functional.scaled_dot_product_attention(
            queries.double(), k.double(), v.double(), is_causal=causal, enable_gqa=True
        )
        error = paging.worst_error(paging.reference(torch, queries, k, v, [40, 40], torch.float64, causal), wanted)
        assert error < 1e-12, f"reference, causal {causal}: expected the attention of torch, got an error of {error:.1e}"


def check_page_lists(torch):
    """FlashInfer cannot run here, but its page lists can be walked as its documentation says."""
    from peers.flashinfer_decode import page_lists

    lengths = [33, 16, 1, 70]
    found = paging.Data(torch, (4, 2, D), lengths, 1, 1, "cpu")
    (_, k, _), copy = found.copies[0], found.paged[0]
    starts, indices, last = page_lists(torch, copy.table, lengths)
    assert starts.dtype == indices.dtype == last.dtype == torch.int32
    for i, length in enumerate(lengths):
        pages = indices[starts[i] : starts[i + 1]].long()
        assert (len(pages) - 1) * paging.PAGE_TOKENS + last[i] == length and 1 <= last[i] <= paging.PAGE_TOKENS
        walked = copy.k_pool[pages].transpose(0, 1).reshape(2, -1, D)[:, :length]
        assert torch.equal(walked, k[i, :, :length]), f"sequence {i}: expected its keys in the pages listed for it"


def check_case(torch, case):
    """One shape: right within the gate, and each wrong reference beyond it."""
    from peers import triton_decode

    heads_q, heads_kv, n_sm, lengths = case
    found = paging.Data(torch, (heads_q, heads_kv, D), lengths, 1, 1, "cpu")
    launch, _ = triton_decode.prepare(torch, found, n_sm)
    got = launch(0)
    exact = paging.reference(torch, *found.copies[0], lengths, torch.float64, False)
    error = paging.worst_error(got, exact)
    tokens = triton_decode.split_tokens(lengths, heads_kv, n_sm)
    splits = -(-max(lengths) // tokens)
    print(f"{heads_q}/{heads_kv} heads, lengths {lengths}, {splits} splits: error {error:.1e}", flush=True)
    assert error < GATE, f"expected a relative error below {GATE}, got {error:.3g}"
    for mistake, wrong in wrong_references(torch, found.copies[0], lengths):
        # Sequence by sequence: one short sequence would notice anything and hide the others.
        hit = [i for i in range(len(lengths)) if not torch.equal(wrong[i], exact[i])]
        seen = [paging.worst_error(got[i : i + 1], wrong[i : i + 1]) for i in hit]
        print(f"  {mistake}: {len(hit)} sequences, at least {min(seen):.1e}", flush=True)
        assert min(seen) > GATE, f"{mistake}: expected the check to notice it, got an error of only {min(seen):.3g}"
    return splits


def run():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    import torch

    check_reference(torch)
    check_page_lists(torch)
    splits = [check_case(torch, case) for case in CASES]
    assert 1 in splits and max(splits) > 16, f"expected cases without splits and with more than one step of the merge: {splits}"
    print("the paged decode holds against float64, and mistakes are noticed")
