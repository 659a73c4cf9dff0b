"""Unit scaling (u-muP): layers whose activations and gradients have a root mean square near one, at every width."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "functional": ["attention", "cross_entropy", "embedding", "layer_norm", "linear", "readout", "rms_norm"],
        "groups": ["groups"],
        "layers": ["MLP", "Attention", "Embedding", "LayerNorm", "Linear", "RMSNorm", "Readout"],
        "low_precision": ["FP8", "round_to", "simulate_fp8"],
        "nonlinear": ["gelu", "silu", "silu_glu", "softmax"],
        "residual": ["Residual", "ResidualStack", "residual_add", "residual_split", "residual_tau"],
        "scale": ["scale"],
    },
)
