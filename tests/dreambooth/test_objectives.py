"""The formulas of the losses, against numbers worked out by hand and against diffusers' schedulers."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch._subclasses.fake_tensor import FakeTensorMode

from turbo_fetch.dreambooth.families.noise import Diffusion, Flow, NoiseProcess, Prediction, min_snr_weight
from turbo_fetch.dreambooth.training import objectives


@pytest.fixture
def latents() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 8, 8, generator=random), torch.randn(3, 4, 8, 8, generator=random)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_target_are_those_of_the_scheduler(
    latents: tuple[torch.Tensor, torch.Tensor], prediction: Prediction
) -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    process = Diffusion(scheduler.alphas_cumprod, prediction)  # type: ignore[attr-defined]
    image, noise = latents
    timesteps = torch.tensor([0, 500, 999])
    torch.testing.assert_close(
        process.noisy(image, noise, timesteps),
        scheduler.add_noise(image, noise, timesteps),  # type: ignore[attr-defined]
    )
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(image, noise, timesteps)  # type: ignore[attr-defined]
    torch.testing.assert_close(process.target(image, noise, timesteps), expected)


def test_min_snr_caps_the_weight_and_leaves_noisy_timesteps_alone() -> None:
    snr = torch.tensor([0.0, 1.0, 5.0, 50.0])
    epsilon = min_snr_weight(snr, 5.0, "epsilon")
    torch.testing.assert_close(epsilon, torch.tensor([1.0, 1.0, 1.0, 0.1]))
    velocity = min_snr_weight(snr, 5.0, "v_prediction")
    torch.testing.assert_close(velocity, torch.tensor([0.0, 0.5, 5 / 6, 5 / 51]))


def test_each_half_is_weighed_by_its_own_timesteps() -> None:
    errors = torch.tensor([1.0, 3.0, 10.0, 20.0])
    weights = torch.tensor([1.0, 0.5, 0.1, 0.2])
    losses = objectives.dual_loss(errors, weights, subjects=2, prior_weight=2.0)
    assert losses.subject.item() == pytest.approx((1 + 1.5) / 2)
    assert losses.prior is not None
    assert losses.prior.item() == pytest.approx((1 + 4) / 2)
    assert losses.total.item() == pytest.approx(1.25 + 2 * 2.5)


def test_without_class_images_the_loss_is_the_subjects() -> None:
    losses = objectives.dual_loss(torch.tensor([1.0, 3.0]), None, subjects=2, prior_weight=9.0)
    assert (losses.total.item(), losses.prior) == (2.0, None)


def test_a_mask_counts_only_what_is_white_and_does_not_shrink_the_loss() -> None:
    predicted, target = torch.zeros(2, 4, 2, 2), torch.ones(2, 4, 2, 2)
    target[0, :, 0, 0] = 3
    mask = torch.zeros(2, 1, 2, 2)
    mask[0, 0, 0, 0] = 1
    assert objectives.example_errors(predicted, target, mask).tolist() == [9.0, 0.0]
    assert objectives.example_errors(predicted, target).tolist() == [3.0, 1.0]


def test_offset_noise_moves_whole_channels() -> None:
    noise = torch.zeros(1, 2, 2, 2)
    moved = objectives.offset(noise, torch.tensor([[1.0, -2.0]]), 0.1)
    torch.testing.assert_close(moved[0, 0], torch.full((2, 2), 0.1))
    torch.testing.assert_close(moved[0, 1], torch.full((2, 2), -0.2))


def test_flow_matching_goes_straight_from_image_to_noise(
    latents: tuple[torch.Tensor, torch.Tensor],
) -> None:
    image, noise = latents
    process = Flow(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1000.0, 500.0, 0.0]))
    timesteps = torch.tensor([0, 1, 2])
    noisy = process.noisy(image, noise, timesteps)
    torch.testing.assert_close(noisy[0], noise[0])
    torch.testing.assert_close(noisy[2], image[2])
    velocity = process.target(image, noise, timesteps)
    torch.testing.assert_close(noisy[1] - 0.5 * velocity[1], image[1])
    assert process.model_times(timesteps).tolist() == [1000, 500, 0]


@pytest.mark.parametrize(
    "process",
    [
        Diffusion(torch.linspace(0.99, 0.01, 1000), "epsilon"),
        Diffusion(torch.linspace(0.99, 0.01, 1000), "v_prediction"),
        Flow(torch.linspace(1, 0, 1000), torch.linspace(1000, 0, 1000)),
    ],
    ids=["epsilon", "velocity", "flow"],
)
def test_noise_is_where_the_latents_are_and_not_where_its_schedule_is(process: NoiseProcess) -> None:
    # Fake tensors do no arithmetic but know their device, and refuse what a real one would.
    with FakeTensorMode(allow_non_fake_inputs=True):
        latents, noise = (torch.empty(3, 4, 8, 8, device="cuda") for _ in range(2))
        timesteps = torch.zeros(3, dtype=torch.long, device="cuda")
        made = [
            process.noisy(latents, noise, timesteps),
            process.target(latents, noise, timesteps),
            process.model_times(timesteps),
            process.weights(timesteps, 5.0),
        ]
    assert {tensor.device.type for tensor in made if tensor is not None} == {"cuda"}
