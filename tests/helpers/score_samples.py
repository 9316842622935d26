"""A small validation result, shared by the tests of scores and reports."""

from irnsigma_plugin.evaluation.measures import ImageScore, Scores

METRICS = {
    'psnr_y': {'type': 'calculate_psnr', 'better': 'higher'},
    'lpips': {'type': 'calculate_lpips', 'better': 'lower'},
}


def sample_scores():
    scores = Scores('Set2', (0.0, 0.5))
    for name, faithful, sharp, lr in (('a,1', (30.0, 0.2), (28.0, 0.1), 40.0), ('b', (34.0, 0.4), (31.0, 0.25), 45.0)):
        for sigma, (psnr, lpips) in ((0.0, faithful), (0.5, sharp)):
            scores.images.append(ImageScore(name, sigma, {'psnr_y': psnr, 'lpips': lpips}, {'psnr': lr}))
    return scores
