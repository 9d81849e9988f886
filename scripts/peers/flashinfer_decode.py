"""FlashInfer's paged decode, where it is installed: the library that serving engines use.

Planned once a copy, outside the graph: the plan holds the copy's page lists and how work is split, and both stay fixed here. So the
wrapper's own CUDA-graph mode is not needed; it pads the grid for batches that change between replays, which would cost time.

The back end is pinned to FlashInfer's own kernel: left to `auto`, new versions may hand the work to cuDNN, which torch's peer is.
"""

from peers.data import PAGE_TOKENS

WORKSPACE_BYTES = 256 << 20  # the partial results of split sequences; FlashInfer's documentation uses 128 MiB
BACKEND = "fa2"
HINT = "pip install flashinfer-python (it compiles with nvcc and ninja on first use), or leave it out with --peers"


def page_lists(torch, table, lengths):
    """FlashInfer's page lists: where each sequence's pages begin, the pages of all, tokens in each last page (1 to 16)."""
    pages = [-(-length // PAGE_TOKENS) for length in lengths]
    starts = torch.tensor([0, *pages], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    indices = torch.cat([table[i, :n] for i, n in enumerate(pages)]).int()
    last = torch.tensor([length - (n - 1) * PAGE_TOKENS for length, n in zip(lengths, pages)], dtype=torch.int32)
    return starts.to(table.device), indices, last.to(table.device)


def prepare(torch, data, n_sm):
    """Makes `launch(copy)`."""
    try:
        import flashinfer
    except ImportError as error:
        raise ImportError(f"expected the package flashinfer, got: {error}\n  hint: {HINT}") from error

    heads_q, heads_kv, d = data.heads
    # Launches follow each other, so all wrappers may share the room for partial results.
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
    planned = []
    for copy in data.paged:
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, kv_layout="HND", use_tensor_cores=True, backend=BACKEND
        )
        wrapper.plan(
            *page_lists(torch, copy.table, data.lengths), heads_q, heads_kv, d, PAGE_TOKENS,
            q_data_type=torch.float16, kv_data_type=torch.float16,
        )
        planned.append((wrapper, copy, torch.full_like(copy.q, float("nan"))))

    def launch(copy):
        wrapper, paged, out = planned[copy]
        return wrapper.run(paged.q, (paged.k_pool, paged.v_pool), out=out)[:, :, None]

    return launch, f"flashinfer-{getattr(flashinfer, '__version__', 'unknown')}-{BACKEND}"
