"""What the papers' releases compute on one deterministic network: numbers, and how they were made.

Each release's own functions were run, copied from its repository into a folder outside this one, with nothing replaced
but what loads weights: the U-Net by `network`, text embeddings by PHASES, random draws by `latents` and the timesteps
below, the schedule by Stable Diffusion's in float64, autocast by nothing.

    PDS                 KAIST-Visual-AI-Group/PDS 24e8d449, pds/pds.py: PDS.__call__, method "pds" and "sds", ω 100
    DDS notebook        google/prompt-to-prompt 51995c75, DDS_zeroshot.ipynb: DDSLoss.get_dds_loss, ω 7.5
    MVDream             MVDream-threestudio's MultiviewDiffusionGuidance.forward, n_view 4, ω 50, with recon_loss
                        (recon_std_rescale 0.5) and without: what SusungHong/Perturb-and-Revise 1e6691c1 edits by
    VSD                 threestudio-project/threestudio 0113b372, compute_grad_vsd and its forward's loss, ω 7.5
    eta, timesteps      Perturb-and-Revise 1e6691c1: determine_eta_exp; threestudio's schedule C with the values of
                        configs/mvdream-pnr.yaml and mvdream-pnr-ipg.yaml
    refinement          PDS.run_sdedit, num_inference_steps 20, skip 18, 17, 16

Of PDS's release neither `method="dds"` runs (it calls torch.nan_ton_num) nor a batch of two (σ_t of shape [2] meets
latents of [2, 4, h, w]), so that its numbers are of batches of one.
"""

import torch
from torch import Tensor

PHASES = {"": 0.0, "src": 1.0, "tgt": 2.0}
OF_ADAPTER = 0.5
"""What an adapter adds to the phase."""


def network(x: Tensor, t: Tensor, phase: float) -> Tensor:
    """ε(x_t, t, y)."""
    return torch.sin(1.7 * x + phase + 0.01 * t.to(x)[:, None, None, None])


def latents(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x⁰_tgt, x⁰_src, ε_t, ε_s, [batch 4 4 4] each."""
    k = torch.arange(batch * 64, dtype=torch.float64).reshape(batch, 4, 4, 4)
    return torch.sin(k), torch.cos(1.3 * k), 1.4 * torch.sin(2.1 * k + 0.5), 1.4 * torch.cos(1.9 * k + 0.2)


# t: the loss's gradient on x⁰_tgt at the values 0, 7 and last, its norm, and the loss.
GRADIENTS = {
    "PDS": {
        51: (0.13639357, -0.584401973, -0.0119230216, 2.73377304, 239.152482),
        201: (-0.197163637, -0.0200307543, -0.147063454, 1.30744871, 54.7015085),
        401: (0.0754118163, 0.24772601, 0.108634368, 0.933454053, 27.882767),
        601: (0.00186986528, -0.238429752, -0.0726569223, 1.05048006, 35.3122671),
        801: (-0.0679892423, -0.00712109184, 0.0143424687, 0.632908523, 12.8183424),
    },
    "PDS, sds": {
        51: (-0.0249387332, -0.124630302, -0.0752023458, 0.819395541, 21.4850897),
        201: (-0.591189779, -0.106380391, -0.351998706, 3.60925385, 416.854828),
        401: (1.3790556, 1.42272556, 1.44552933, 8.93703671, 2555.86),
        601: (-0.442703288, -1.35743102, -1.74934771, 9.14444198, 2675.86621),
        801: (-1.93492343, -1.51367765, -0.453677451, 15.8746665, 8064.16121),
    },
    "DDS notebook": {
        51: (0.289277086, -1.08101665, 0.0129880864, 5.12890683, -24.6407671),
        201: (-0.560561642, -0.153761616, -0.421332079, 4.00398941, -1.51664657),
        401: (0.240922168, 0.910053367, 0.354685481, 3.42423048, 5.96776295),
        601: (-0.00928486611, -0.795364575, -0.249080661, 3.54559748, -4.42133932),
        801: (-0.19291321, -0.051192132, 0.0581533208, 1.93052859, 2.26505933),
    },
    "threestudio, MVDream": {
        51: (-0.485614948, -2.34669165, 0.903094898, 30.4291682, 1851.86855),
        201: (-5.69716884, -0.985717348, -6.21476556, 71.5040243, 10225.651),
        401: (11.1746963, 11.6400254, 11.9201137, 138.374818, 38295.1805),
        601: (-4.93631105, -15.0291274, -18.7558704, 288.78266, 166790.849),
        801: (-42.6969003, -33.4274142, 0.780230015, 531.664769, 565334.854),
    },
    "threestudio, SDS": {
        51: (-0.199383232, -0.99531982, 0.395316201, 13.013218, 338.687683),
        201: (-4.73376353, -0.884585783, -5.11330442, 59.5298829, 7087.61391),
        401: (10.9128581, 11.2880264, 11.7018995, 134.729204, 36303.9166),
        601: (-3.53880357, -10.8318276, -13.4015728, 207.027009, 85720.3649),
        801: (-15.5252306, -12.1836094, 0.305980634, 193.332313, 74754.7669),
    },
    "threestudio, VSD": {
        51: (-0.0397648225, -0.252706934, -0.264012401, 2.38795103, 5.70231014),
        201: (-1.23564852, -0.266991247, -0.6484232, 10.6585457, 113.604597),
        401: (2.80461434, 2.98532872, 2.67490981, 25.7238054, 661.714165),
        601: (-0.715159344, -2.63486846, 2.50001928, 30.8480035, 951.599321),
        801: (-4.10211115, -3.26653359, -4.49907225, 44.1377072, 1948.13719),
    },
}
SHOWN = (0, 7, -1)

ETA = {-5e3: 0.0, -1e3: 0.0, -500.0: 0.17573593128807144, 0.0: 0.3, 1e3: 0.45, 3e3: 0.5625}
"""ΔL: η, at a half of 1000 and a bound of 0.6."""
ANNEALED = {50: (0.75, 0.75), 650: (0.385, 0.575), 1250: (0.02, 0.40), 1549: (0.02, 0.40)}
"""Of 1550 steps, the first 50 of which probe: min_step_percent and max_step_percent."""
IDENTITY_L1 = {0: 30_000.0, 250: 15_000.0, 500: 0.0, 900: 0.0}
"""Of 1000 steps of refinement: lambda_l1."""
REFINEMENT = {2: (51, 1), 3: (101, 51, 1), 4: (151, 101, 51, 1)}
"""By the number of evaluations: the t at which the network is asked."""
