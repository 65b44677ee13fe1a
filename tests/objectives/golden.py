"""PDS's coefficients on Stable Diffusion's schedule, recorded; `python tests/objectives/golden.py` prints them again.

Made with 50-digit decimals from β alone, so that neither torch nor float64 takes part.
"""

from decimal import Decimal, getcontext

COLUMNS = ("sigma", "identity", "noise", "psi", "chi")
# t, then σ, k/σ, γ√(1/ᾱ − 1)/σ, ψ, χ of the pair (t, t − 2); scaled_linear 0.00085 → 0.012, T = 1000.
PDS_COEFFICIENTS = {
    21: (0.0293434435729972, 1.61332200072325, 0.231696380490323, 5.20561575603536, 0.747601736265969),
    101: (0.0368473483334905, 0.314319787947935, 0.115470067905115, 0.197593858191270, 0.0725890545165390),
    301: (0.0531574767824676, 0.0793998596997614, 0.0838210414846430, 0.0126086754406836, 0.0133107578675371),
    501: (0.0693422737320276, 0.0321072737687598, 0.0821353467465922, 0.00206175405772419, 0.00527428412816971),
    701: (0.0855079059071582, 0.0144506434356156, 0.0900175166893350, 0.000417642191406603, 0.00260162207327432),
    901: (0.101643283937395, 0.00619456386195011, 0.103461478431868, 0.0000767452428795565, 0.00128179747079596),
    979: (0.107927500610950, 0.00420587931079237, 0.109538426656741, 0.0000353788415539025, 0.000921410804824667),
}


def recompute(t: int, stride: int = 2) -> tuple[Decimal, ...]:
    """The row of t, by definition: σ, k/σ, γ√(1/ᾱ − 1)/σ, 2k²/σ², 2kγ√(1/ᾱ − 1)/σ²."""
    getcontext().prec = 50
    start, end = Decimal("0.00085").sqrt(), Decimal("0.012").sqrt()
    betas = [(start + (end - start) * i / 999) ** 2 for i in range(1000)]
    alpha_bars = []
    product = Decimal(1)
    for beta in betas:
        product *= 1 - beta
        alpha_bars.append(product)
    beta, bar_t, bar_s = betas[t], alpha_bars[t], alpha_bars[t - stride]
    gamma = bar_s.sqrt() * beta / (1 - bar_t)
    delta = (1 - beta).sqrt() * (1 - bar_s) / (1 - bar_t)
    sigma = (beta * (1 - bar_s) / (1 - bar_t)).sqrt()
    k = bar_s.sqrt() - gamma - delta * bar_t.sqrt()
    noise = gamma * (1 / bar_t - 1).sqrt()
    return sigma, k / sigma, noise / sigma, 2 * k**2 / sigma**2, 2 * k * noise / sigma**2


if __name__ == "__main__":
    for t in PDS_COEFFICIENTS:
        print(f"    {t}: ({', '.join(f'{value:.15g}' for value in recompute(t))}),")
