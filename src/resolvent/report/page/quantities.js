// The quantities of a matrix: one list for the table's columns, the heat map, the panel of a matrix and the explanations.
// short: head of a column; scale: how colours and bars compare values; rank: counted in directions, at most min(m, n).

const condition = (m) => (isNumber(m.condition) ? (m.condition_at_least ? "≥ " : "") + num(m.condition) : "–");
const share3 = (x) => (isNumber(x) ? x.toFixed(3) : "–");
const alphaOf = (m) => (isNumber(m.alpha) ? { "power law": num(m.alpha), undecided: `${num(m.alpha)}?` }[m.alpha_verdict] || `(${num(m.alpha)})` : "–");

const QUANTITIES = [
  { key: "spectral_norm", short: "‖A‖₂", name: "Spectral norm", formula: "σ₁", scale: "log",
    says: "The most that the matrix stretches a vector.", read: "Far above its siblings in other layers: a direction that explodes." },
  { key: "frobenius_norm", short: "‖A‖F", name: "Frobenius norm", formula: "√ Σ σᵢ²", scale: "log",
    says: "The size of all entries together.", read: "Compare it between layers of the same shape." },
  { key: "nuclear_norm", short: "‖A‖*", name: "Nuclear norm", formula: "Σ σᵢ", scale: "log",
    says: "The sum of the singular values.", read: "Large against ‖A‖F where many directions count." },
  { key: "stable_rank", short: "stable", name: "Stable rank", formula: "Σ σᵢ² / σ₁²", scale: "log", rank: true,
    says: "How many directions are about as strong as the strongest.", read: "Near 1: one direction rules. A smooth lower bound of the rank." },
  { key: "effective_rank", short: "eff", name: "Effective rank", formula: "exp S", scale: "log", rank: true,
    says: "The number of directions that carry the energy.", read: "Far below min(m, n): a candidate for compression." },
  { key: "entropy", short: "S", name: "Entropy", formula: "− Σ pᵢ log pᵢ,  pᵢ = σᵢ² / Σ σⱼ²", scale: "linear",
    says: "Von Neumann entropy of AᴴA / tr, in nats.", read: "0 for rank one, log min(m, n) for an orthogonal matrix." },
  { key: "participation_ratio", short: "part", name: "Participation ratio", formula: "1 / Σ pᵢ²", scale: "log", rank: true,
    says: "The effective rank, asked of the strong directions only.", read: "Always between the stable and the effective rank." },
  { key: "rank90", short: "90%", name: "Rank for 90% of the energy", formula: "min k : Σᵢ≤ₖ σᵢ² ≥ 0.9 Σ σᵢ²", scale: "log", rank: true,
    says: "The fewest singular values that keep 90% of Σσ².", read: "What a coarse low-rank copy would need." },
  { key: "rank99", short: "99%", name: "Rank for 99% of the energy", formula: "min k : Σᵢ≤ₖ σᵢ² ≥ 0.99 Σ σᵢ²", scale: "log", rank: true,
    says: "The fewest singular values that keep 99% of Σσ².", read: "Below m n / (m + n), storing two factors takes less than the matrix." },
  { key: "parameters99", short: "params", name: "Numbers at 99%", formula: "k (m + n),  k = rank for 99%", scale: "log", hidden: true, show: (m) => many(m.parameters99),
    says: "Numbers in the two factors of such a truncation.", read: "Compare it with m n, the numbers in the matrix." },
  { key: "condition", short: "cond", name: "Condition number", formula: "σ₁ / σₘᵢₙ", scale: "log", show: condition,
    says: "How much a solve with the matrix can amplify errors.", read: "≥: the smallest values drown in rounding; the true number is at least this." },
  { key: "top_ratio", short: "σ₁/σ₂", name: "First over second", formula: "σ₁ / σ₂", scale: "log", hidden: true,
    says: "How far the strongest direction stands out.", read: "Far above 1: one direction, often a mean that was never subtracted, hides the rest." },
  { key: "marchenko_pastur", short: "MP", name: "Distance from noise", formula: "supₓ | F(x) − Fₘₚ(x) |", scale: "log", show: (m) => share3(m.marchenko_pastur),
    says: "Kolmogorov-Smirnov distance of the σᵢ² from the Marchenko-Pastur law, the law of a random matrix of this shape.", read: "Below about 0.01: as at its initialisation." },
  { key: "spikes", short: "spikes", name: "Spikes", formula: "# { σᵢ² > edge of the law }", scale: "count",
    says: "Singular values beyond the edge of that law.", read: "Directions that noise of this strength would not show: what was learned, or what went wrong." },
  { key: "alpha", short: "α", name: "Tail exponent", formula: "density of σ² ~ x^−α beyond xmin", scale: "linear", show: alphaOf,
    says: "The exponent of a power law fitted to the tail of the σ².", read: "The smaller, the heavier the tail. (α): not a power law; α?: the tail is too short to say." },
  { key: "alpha_ks", short: "KS", name: "Distance from a power law", formula: "supₓ | F(x) − F_α(x) |,  x ≥ xmin", scale: "linear", show: (m) => share3(m.alpha_ks),
    says: "Kolmogorov-Smirnov distance of the tail from the fit.", read: "The smaller, the better the power law fits." },
];
const QUANTITY = Object.fromEntries(QUANTITIES.map((q) => [q.key, q]));
const valueOf = (m, q) => { const v = q.of ? q.of(m) : m[q.key]; return isNumber(v) ? v : null; };
const textOf = (m, q) => (q.show ? q.show(m) : num(valueOf(m, q)));
// What a heat map compares: ranks as a share of the most that the shape allows.
const comparable = (m, q) => { const v = valueOf(m, q); return v === null ? null : q.rank ? v / side(m) : v; };

const WORDS = [
  ["Singular values", "A = U diag(σ) Vᴴ", "σ₁ ≥ σ₂ ≥ … are how much the matrix stretches along its own directions.", "Everything here is read from them; they do not change when rows or columns are rotated."],
  ["Marchenko-Pastur law", "density √((b² − s²)(s² − a²)) / (π q c² s) of s = σ", "Where the singular values of a matrix of independent noise lie: between a = c (1 − √q) and b = c (1 + √q), with q = min(m, n) / max(m, n) and c² = max(m, n) times the fitted variance.", "A spectrum that follows it has learned nothing yet, or has been drowned in noise."],
  ["Shuffled spectrum", "σ of the matrix with its entries permuted", "The same entries at random places: all structure is gone, only the distribution of the entries stays.", "A value that is large there too comes from a few huge entries, not from learned correlation."],
  ["Spectrum beyond the edge", "σᵢ > b", "Values to the right of the dashed line.", "Each is one direction that noise does not explain."],
  ["Distance from the shuffled spectrum", "supₓ | F(x) − F shuffled(x) |", "Kolmogorov-Smirnov distance between the two spectra.", "Near zero: the matrix is what its entries make in any order."],
  ["Anisotropy", "‖ mean of the unit rows ‖²", "How much all rows of an embedding point the same way.", "0: spread over all directions; near 1: a cone, where cosines say little. Subtract the mean."],
  ["Norm spread", "std ‖row‖ / mean ‖row‖", "How much the lengths of the rows differ.", "Near 0, inner product and cosine rank alike."],
  ["Intrinsic dimension", "TwoNN: from r₂ / r₁; MLE: from k nearest distances", "How many coordinates the points need locally.", "Far below the number of columns: fewer dimensions can index them as well."],
  ["Hubness", "skewness of N₁₀", "N₁₀(x) counts how often x is among the 10 nearest neighbours of others.", "Above about 1: a few rows turn up in everybody's results."],
  ["Relative change", "‖B − A‖F / ‖A‖F", "How far a matrix moved between two checkpoints.", "0: frozen; 1 and more: replaced."],
  ["Principal angles", "cos θᵢ = σᵢ(U₁ᴴ U₂)", "Between the leading left singular subspaces of the two, in radians.", "0: the same directions; π/2 ≈ 1.57: the strongest directions are new."],
  ["Effective rank of the difference", "exp S(B − A)", "The number of directions in which a matrix changed.", "A few: the update fits a LoRA of about that rank."],
];
