"""Randomisation: random projections, row sampling, approximate products, coresets and streams, each with its guarantee."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "active": ["ActiveFit", "active_regression"],
        "coordinated": ["MatrixSketch", "estimate_product", "inner_product"],
        "coreset_line": ["Coreset", "coreset_1d"],
        "coreset_verify": ["Deviation", "verify_coreset"],
        "coresets": ["coreset"],
        "density_lift": ["kirszbraun_lift"],
        "density_mode": ["Mode", "kde_mode"],
        "detection": ["CorrelatedDatabases", "Detection", "correlated_databases", "detect"],
        "detection_bounds": ["DetectionBounds", "detection_bounds", "second_moment"],
        "directions": ["FrequentDirections"],
        "embedding": ["distance_distortion", "distortion", "recommended_size"],
        "fast_jl": ["fjlt", "fjlt_density"],
        "least_squares": ["OccProbe", "linf_rows", "occ_probe", "sketch_and_solve"],
        "leverage": ["effective_dimension", "leverage_scores"],
        "lewis": ["lewis_weights"],
        "lp_distortion": ["lp_distortion"],
        "multilevel": ["MultilevelEstimate", "multilevel_expectation"],
        "pivotal": ["pivotal_sample"],
        "product": ["approx_matmul"],
        "projection_maintenance": ["ProjectionMaintainer"],
        "quantum_ledger": ["QueryLedger", "amplified_sample", "quantum_queries"],
        "row_sampling": ["SampledRows", "inclusion_probabilities", "sample_rows", "sample_size"],
        "sensitivity": ["sensitivities"],
        "sparse_walsh": ["SparseSpectrum", "sparse_wht"],
        "stream": ["TopEigenvector", "oja", "top_eigenvector_stream"],
        "structured": ["srct", "srht"],
        "tensor": ["KroneckerSRHT", "TensorSketch", "kronecker_srht", "tensor_sketch"],
        "transforms": ["count_sketch", "gaussian", "make_sketch", "osnap", "rademacher", "sparse_sign"],
        "walsh": ["wht"],
    },
)
