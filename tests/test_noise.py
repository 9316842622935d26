import pytest
import torch

from irnsigma_plugin.rescaling.noise import draw_epsilon

SHAPE = (1, 45, 3, 4)


@pytest.mark.parametrize(
    ('seed', 'name', 'expected'),
    [
        (0, 'baby', [0.9895722, -1.0834177, -0.0973020, -1.6564671]),
        (0, 'bird', [-2.0548098, -0.7677898, 0.2522920, -1.9242623]),
        (7, 'baby', [-0.9588740, 1.2584027, 0.7435433, 0.0075446]),
    ],
)
def test_first_values_never_change(seed, name, expected):
    """Published numbers depend on this noise: if it must change, say so in the release notes."""
    values = draw_epsilon(SHAPE, seed, name).flatten()[:4]
    torch.testing.assert_close(values, torch.tensor(expected), rtol=0, atol=1e-6)


def test_does_not_depend_on_what_was_drawn_before():
    torch.manual_seed(1)
    first = draw_epsilon(SHAPE, 0, 'baby')
    torch.randn(100)
    draw_epsilon(SHAPE, 0, 'bird')
    assert torch.equal(draw_epsilon(SHAPE, 0, 'baby'), first)


def test_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    draw_epsilon(SHAPE, 0, 'baby')
    assert torch.equal(torch.get_rng_state(), state)


def test_every_image_and_seed_has_its_own():
    draws = [draw_epsilon(SHAPE, seed, name) for seed in (0, 1, -1) for name in ('a', 'b', '', 'näme')]
    for index, draw in enumerate(draws):
        for other in draws[:index]:
            correlation = (draw * other).mean()
            assert abs(correlation) < 0.2


def test_is_standard_normal():
    epsilon = draw_epsilon((1, 45, 40, 40), 3, 'img_001')
    assert epsilon.shape == (1, 45, 40, 40)
    assert epsilon.dtype == torch.float32
    assert abs(epsilon.mean()) < 0.02
    assert abs(epsilon.std() - 1) < 0.02


def test_a_latent_without_elements():
    assert draw_epsilon((1, 0, 3, 4), 0, 'baby').shape == (1, 0, 3, 4)


# Blocks of 64x64: three rows and two columns of them, the last ones cut by the image.
WHOLE = (1, 2, 150, 70)


@pytest.mark.parametrize(
    ('rows', 'columns'),
    [((0, 150), (0, 70)), ((0, 64), (0, 64)), ((63, 65), (63, 65)), ((149, 150), (69, 70)), ((10, 140), (5, 6))],
)
def test_a_window_is_that_part_of_the_whole(rows, columns):
    whole = draw_epsilon(WHOLE, 0, 'baby')
    part = draw_epsilon(WHOLE, 0, 'baby', (slice(*rows), slice(*columns)))
    assert torch.equal(part, whole[..., slice(*rows), slice(*columns)])


def test_every_block_has_its_own():
    whole = draw_epsilon((1, 1, 128, 192), 0, 'baby')
    blocks = [whole[..., top : top + 64, left : left + 64] for top in (0, 64) for left in (0, 64, 128)]
    for index, block in enumerate(blocks):
        for other in blocks[:index]:
            assert abs((block * other).mean()) < 0.1


def test_a_window_touches_only_its_blocks(monkeypatch):
    drawn = []
    randn = torch.randn

    def counted(shape, **options):
        drawn.append(tuple(shape))
        return randn(shape, **options)

    monkeypatch.setattr(torch, 'randn', counted)
    draw_epsilon((1, 45, 10**6, 10**6), 0, 'baby', (slice(640, 700), slice(999_990, 10**6)))
    assert drawn == [(1, 45, 64, 64)]
