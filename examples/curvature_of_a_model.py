"""The largest and the mean curvature of a small network's loss, from products with its Hessian alone."""

from __future__ import annotations

import torch

from resolvent import operators, spectra


def main() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).double()
    X = torch.randn(256, 10, dtype=torch.float64)
    y = X[:, :1] ** 2
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((torch.func.functional_call(model, values, (X,)) - y) ** 2).mean()

    H = operators.hessian(loss, parameters)
    w, _ = spectra.eigsh(H, k=3, which="LA")
    print(f"parameters: {H.shape[0]}")
    print(f"three largest curvatures: {', '.join(f'{float(value):.4f}' for value in w)}")
    print(f"mean curvature: {float(spectra.trace(H, generator=0)) / H.shape[0]:.5f}")


if __name__ == "__main__":
    main()
