"""PyTorch's scaled_dot_product_attention, one of its back ends at a time, over contiguous keys and values."""


def prepare(backend):
    """A function that makes `launch(copy)` for one back end of torch."""

    def prepared(torch, data, n_sm):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        heads_q, heads_kv, _ = data.heads
        chosen = getattr(SDPBackend, backend)

        def launch(copy):
            q, k, v = data.copies[copy]
            with sdpa_kernel(chosen):
                return torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=data.q_len > 1, enable_gqa=heads_q != heads_kv
                )

        return launch, f"torch-{torch.__version__}"

    return prepared
