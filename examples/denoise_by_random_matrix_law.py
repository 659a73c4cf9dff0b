"""Which singular values of a noisy matrix are signal? Those beyond the edge that the Marchenko-Pastur law draws."""

from __future__ import annotations

import torch

from resolvent import spectra


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    m, n, rank = 1000, 400, 3
    noise = torch.randn(m, n, generator=generator, dtype=torch.float64) / m**0.5
    U = torch.linalg.qr(torch.randn(m, rank, generator=generator, dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64)).Q
    strength = torch.tensor([4.0, 3.0, 2.5], dtype=torch.float64)
    A = (U * strength) @ V.T + noise

    edge = 1 + (n / m) ** 0.5
    s = spectra.svds(A, k=6)[1]
    print(f"largest singular values: {', '.join(f'{float(value):.3f}' for value in s)}")
    print(f"edge of the noise:       {edge:.3f}")
    print(f"signal: {int((s > edge * 1.02).sum())} of rank {rank}")
    print(f"effective rank with the noise: {float(spectra.effective_rank(A)):.1f}")


if __name__ == "__main__":
    main()
