"""The schedule against diffusers, and the laws of the forward process."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from pds_nerfstudio.objectives import NoiseSchedule

STABLE_DIFFUSION = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, num_train_timesteps=1000)
SCHEDULE = NoiseSchedule.scaled_linear()
ALL_STEPS = torch.arange(1000)


def latents(
    seed: int, dtype: torch.dtype = torch.float64, batch: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, batch, 4, 3, 5, generator=generator, dtype=torch.float64).to(dtype)
    return x0, eps, torch.randint(0, 1000, (batch,), generator=generator)


@pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler])
def test_alpha_bar_and_forward_process_equal_diffusers(scheduler_class):
    scheduler = scheduler_class(**STABLE_DIFFUSION)
    torch.testing.assert_close(SCHEDULE.alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=2e-5, atol=0)
    x0, eps, t = latents(0, torch.float32)
    torch.testing.assert_close(SCHEDULE.add_noise(x0, t, eps), scheduler.add_noise(x0, eps, t), rtol=1e-5, atol=1e-6)


def test_single_step_alpha_and_beta_equal_diffusers():
    scheduler = DDPMScheduler(**STABLE_DIFFUSION)
    torch.testing.assert_close(SCHEDULE.beta(ALL_STEPS).float(), scheduler.betas, rtol=1e-5, atol=0)
    torch.testing.assert_close(SCHEDULE.alpha(ALL_STEPS).float(), scheduler.alphas, rtol=1e-6, atol=0)


def test_alpha_bar_is_the_running_product_of_alpha():
    torch.testing.assert_close(SCHEDULE.alpha(ALL_STEPS).cumprod(0), SCHEDULE.alpha_bar(ALL_STEPS), rtol=1e-12, atol=0)


def test_velocity_conversion_equals_diffusers():
    scheduler = DDPMScheduler(**STABLE_DIFFUSION)
    x0, eps, t = latents(1, torch.float32)
    velocity = scheduler.get_velocity(x0, eps, t)
    x_t = SCHEDULE.add_noise(x0, t, eps)
    torch.testing.assert_close(SCHEDULE.velocity_to_epsilon(x_t, t, velocity), eps, rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), batch=st.integers(1, 4))
def test_every_dialect_of_a_prior_gives_back_the_same_noise(seed, batch):
    x0, eps, t = latents(seed, batch=batch)
    x_t = SCHEDULE.add_noise(x0, t, eps)
    signal, noise = SCHEDULE.alpha_bar(t).sqrt(), (1 - SCHEDULE.alpha_bar(t)).sqrt()
    velocity = torch.einsum("b,b...->b...", signal, eps) - torch.einsum("b,b...->b...", noise, x0)
    torch.testing.assert_close(SCHEDULE.velocity_to_epsilon(x_t, t, velocity), eps)
    torch.testing.assert_close(SCHEDULE.sample_to_epsilon(x_t, t, x0), eps)
    torch.testing.assert_close(SCHEDULE.predict_x0(x_t, t, eps), x0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_latents_keep_their_dtype(dtype):
    x0, eps, t = latents(2, dtype)
    x_t = SCHEDULE.add_noise(x0, t, eps)
    for result in (x_t, SCHEDULE.predict_x0(x_t, t, eps), SCHEDULE.velocity_to_epsilon(x_t, t, eps)):
        assert result.dtype == dtype
        assert result.isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_latents_keep_their_device():
    x0, eps, t = latents(3, torch.float32)
    on_gpu = SCHEDULE.add_noise(x0.cuda(), t, eps.cuda())
    torch.testing.assert_close(on_gpu.cpu(), SCHEDULE.add_noise(x0, t, eps))
    torch.testing.assert_close(SCHEDULE.add_noise(x0.cuda(), t.cuda(), eps.cuda()), on_gpu)


@pytest.mark.parametrize("t", [-1, 1000])
def test_steps_outside_the_schedule_are_refused(t):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1000\)"):
        SCHEDULE.alpha_bar(torch.tensor([5, t]))


@pytest.mark.parametrize("table", [[0.5, 0.9], [1.0, 0.5], [0.9, 0.9], [0.5, -0.1], [0.9, float("nan")]])
def test_tables_that_are_no_schedule_are_refused(table):
    with pytest.raises(ValueError, match="fall strictly"):
        NoiseSchedule.from_alphas_cumprod(torch.tensor(table))


@pytest.mark.usefixtures("as_users_run_it")
def test_a_float32_table_is_refused_without_conversion():
    with pytest.raises(ValueError, match="from_alphas_cumprod"):
        NoiseSchedule(torch.tensor([0.9, 0.5]))


def test_zero_terminal_snr_keeps_epsilon_finite():
    scheduler = DDIMScheduler(**STABLE_DIFFUSION, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    schedule = NoiseSchedule.from_alphas_cumprod(scheduler.alphas_cumprod)
    x0, eps, _ = latents(4, torch.float32)
    last = torch.full((3,), 999)
    assert schedule.velocity_to_epsilon(schedule.add_noise(x0, last, eps), last, eps).isfinite().all()
