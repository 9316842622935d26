"""The validator by itself; tests/test_commands.py runs it inside BasicSR."""

from __future__ import annotations

import math
import os
from collections import defaultdict

import cv2
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.metrics import calculate_psnr
from basicsr.utils import tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from helpers.experiment import LPIPS, METRICS, has_alexnet, write_photographs

from irnsigma_plugin.archs.bicubic import BicubicRescaleNet
from irnsigma_plugin.archs.irn_arch import InvRescaleNet
from irnsigma_plugin.evaluation.lpips import calculate_lpips
from irnsigma_plugin.evaluation.measures import LR_METRICS, hr_metrics
from irnsigma_plugin.options.train_val import ValOptions
from irnsigma_plugin.rescaling.rescaler import Rescaler
from irnsigma_plugin.training.validator import Validator

CPU = torch.device('cpu')


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = InvRescaleNet(2, [1], 4)
    for name, parameter in net.named_parameters():
        if 'conv5' in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return net.eval()


@pytest.fixture
def loader(tmp_path):
    def make(**changes):
        opt = {
            'name': 'photographs',
            'phase': 'val',
            'scale': 2,
            'type': 'HRImageDataset',
            'dataroot_gt': str(write_photographs(tmp_path / 'photographs')),
            'io_backend': {'type': 'disk'},
        }
        opt.update(changes)
        return build_dataloader(build_dataset(opt), opt)

    return make


def validator(tmp_path, is_train=False, metrics=METRICS, scale=2, **options):
    opt = {
        'name': 'tiny',
        'scale': scale,
        'is_train': is_train,
        'val': {'metrics': metrics, 'pbar': False},
        'path': {key: str(tmp_path / key) for key in ('experiments_root', 'results_root', 'visualization')},
    }
    return Validator(opt, ValOptions(**options))


def test_one_downscale_per_image_and_one_upscale_per_sigma(tmp_path, net, loader, monkeypatch):
    calls = []
    for name in ('downscale', 'upscale'):
        original = getattr(net, name)

        def counted(*args, name=name, original=original):
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(net, name, counted)
    validator(tmp_path, sigmas=(0, 0.3, 1)).run(net, loader(), CPU, 'tiny', None, save_img=False)
    assert calls == ['downscale', 'upscale', 'upscale', 'upscale'] * 3


def test_a_restored_image_depends_on_name_and_seed_only(tmp_path, net, loader):
    first, second, _ = loader()
    alone = validator(tmp_path, sigmas=(0.5,)).rescale(net, second, CPU)
    among_others = validator(tmp_path, sigmas=(0, 0.5, 1))
    among_others.rescale(net, first, CPU)
    image = among_others.rescale(net, second, CPU)
    assert (image.restored[0.5] == alone.restored[0.5]).all()
    other_seed = validator(tmp_path, sigmas=(0, 0.5), seed=1).rescale(net, second, CPU)
    assert (other_seed.restored[0] == image.restored[0]).all()
    assert (other_seed.restored[0.5] != image.restored[0.5]).any()


@pytest.mark.parametrize(('pbar', 'shown'), [(None, True), (False, False)])
def test_an_empty_key_of_the_bar_is_its_default(tmp_path, net, loader, capfd, pbar, shown):
    measured = validator(tmp_path, metrics={})
    measured.opt['val']['pbar'] = pbar
    measured.run(net, loader(), CPU, 'tiny', None, save_img=False)
    assert ('3/3 [' in capfd.readouterr().err) == shown


def test_a_metric_may_measure_all_sigmas_at_once(tmp_path, net, loader, monkeypatch):
    calls = []

    def many(images, reference, crop_border):
        calls.append((len(images), reference.shape, crop_border))
        return range(len(images))

    monkeypatch.setattr(calculate_psnr, 'many', many, raising=False)
    measured = validator(tmp_path, metrics={'p': {'type': 'calculate_psnr', 'crop_border': 4}}, sigmas=(0, 0.5, 1))
    measured.run(net, loader(), CPU, 'tiny', None, save_img=False)
    assert calls == [(3, (64, 96, 3), 4)] * 3
    assert [measured._tested[0].hr_means(sigma) for sigma in (0, 0.5, 1)] == [{'p': 0}, {'p': 1}, {'p': 2}]


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_images_are_those_of_the_rescaler(tmp_path, net, loader, precision):
    for data in loader():
        image = validator(tmp_path, sigmas=(0.5,), seed=3, precision=precision).rescale(net, data, CPU)
        original = tensor2img(data['gt'])[..., ::-1]
        rescaler = Rescaler(net, precision=precision)
        lr = rescaler.downscale(original)
        assert (image.lr[..., ::-1] == lr).all()
        restored = rescaler.upscale(lr, 0.5, 3, image.name, original.shape[:2])
        assert (image.restored[0.5][..., ::-1] == restored).all()


def test_a_grey_image_stays_grey(tmp_path, net):
    grey = torch.rand(1, 1, 21, 30).expand(1, 3, -1, -1)
    image = validator(tmp_path, sigmas=(0, 1)).rescale(net, {'gt': grey, 'lq_path': ['grey.png']}, CPU)
    for picture in (image.lr, *image.restored.values()):
        assert (picture == picture[..., :1]).all()


def test_best_values_are_kept_per_sigma(tmp_path, net, loader):
    error = {'error': {'type': 'calculate_psnr', 'crop_border': 0, 'better': 'lower'}}
    measured = validator(tmp_path, is_train=True, metrics={**METRICS, **error}, sigmas=(0, 1))
    measured.run(net, loader(), CPU, 10, None, save_img=False)
    first = dict(measured.best['photographs'])
    assert set(first) == {f'sigma_{sigma}/{name}' for sigma in (0, 1) for name in (*METRICS, 'error')}
    for parameter in net.parameters():  # a network that restores nothing: every PSNR falls
        parameter.data.fill_(0.01)
    measured.run(net, loader(), CPU, 20, None, save_img=False)
    for name, (value, iteration) in measured.best['photographs'].items():
        assert iteration == (20 if name.endswith('error') else 10)
        assert (value < first[name][0]) == name.endswith('error')
    assert (tmp_path / 'experiments_root/validation/photographs/20/table.md').exists()


class Writer:
    """Keeps what TensorBoard's writer would write: name, value and further arguments, by kind."""

    def __init__(self):
        self.written = defaultdict(list)

    def __getattr__(self, name):
        return lambda *args, **options: self.written[name].append((*args, options))


def test_tensorboard_gets_the_means_the_table_and_the_pictures(tmp_path, net, loader, monkeypatch):
    monkeypatch.setattr(calculate_lpips, 'many', lambda images, *_, **__: [0.4, 0.2][: len(images)])
    writer = Writer()
    measured = validator(
        tmp_path, is_train=True, metrics={**METRICS, 'lpips': LPIPS}, sigmas=(0, 1), lr_metrics=LR_METRICS
    )
    measured.run(net, loader(), CPU, 10, writer, save_img=False)
    folder = tmp_path / 'experiments_root/validation/photographs/10'
    scalars = {name: (value, iteration) for name, value, iteration, _ in writer.written.pop('add_scalar')}
    assert scalars == {f'metrics/photographs/{name}': best for name, best in measured.best['photographs'].items()}
    assert scalars['metrics/photographs/sigma_1/lpips'] == (pytest.approx(0.2), 10)
    assert 'metrics/photographs/lr/ssim_y' in scalars
    assert writer.written.pop('add_text') == [('table/photographs', (folder / 'table.md').read_text(), 10, {})]
    pictures = {name: (image, *others) for name, image, *others in writer.written.pop('add_image')}
    assert set(pictures) == {'comparison/photographs', 'curve/photographs'}
    for name, (image, *others) in pictures.items():
        assert (image[..., ::-1] == cv2.imread(str(folder / f'{name.partition("/")[0]}.png'))).all()
        assert others == [10, {'dataformats': 'HWC'}]
    assert not writer.written


def test_a_name_that_is_no_text(tmp_path, net, loader, monkeypatch):
    """It is saved as it is; TensorBoard, which takes text alone, gets what can be read of it."""
    folder, name = write_photographs(tmp_path / 'named', count=1), os.fsdecode(b'caf\xe9')
    (folder / 'photo0.png').rename(folder / f'{name}.png')
    batches = loader(dataroot_gt=str(folder))
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'calculate_nan', lambda img, img2: float('nan'))
    writer = Writer()
    metrics = {**METRICS, 'nan': {'type': 'calculate_nan'}}
    validator(tmp_path, is_train=True, metrics=metrics, sigmas=(0,)).run(net, batches, CPU, 10, writer, save_img=True)
    assert (tmp_path / f'visualization/{name}/{name}_10_sigma0.png').exists()
    ((_, text, *_),) = writer.written['add_text']
    assert r'caf\udce9: nan' in text


def test_bicubic_has_the_published_figures_of_set5(tmp_path, shared_dir, loader):
    measured = validator(tmp_path, scale=4, metrics=hr_metrics(4, has_alexnet()), sigmas=(0,))
    set5 = loader(scale=4, dataroot_gt=str(shared_dir / 'data/Set5/HR'))
    measured.run(BicubicRescaleNet(4), set5, CPU, 'tiny', None, save_img=False)
    means = measured._tested[0].hr_means(0)
    assert means['psnr_y'] == pytest.approx(28.43, abs=0.01)
    assert means['ssim_y'] == pytest.approx(0.811, abs=0.001)
    if has_alexnet():
        assert means['lpips'] == pytest.approx(0.3407, abs=0.002)


def test_nothing_to_measure_and_nothing_to_save_is_said(tmp_path, net, loader, basicsr_log):
    validator(tmp_path, metrics={}).run(net, loader(), CPU, 'tiny', None, save_img=False)
    assert 'Nothing came of photographs' in basicsr_log.text
    assert not (tmp_path / 'results_root').exists()


def test_an_image_of_which_the_network_makes_no_numbers_costs_no_training(tmp_path, net, loader, basicsr_log):
    upscale, calls = net.upscale, []

    def spoil(lr, latent):
        calls.append(None)
        return upscale(lr, latent) * (float('nan') if len(calls) == 1 else 1)

    net.upscale = spoil
    data = loader()
    validator(tmp_path, is_train=True).run(net, data, CPU, 5, None, save_img=False)
    assert 'photo0.png is left out: the network makes infinite values or no numbers of this image' in basicsr_log.text
    assert f'Validation photographs, {len(data) - 1} images' in basicsr_log.text


@pytest.mark.parametrize('is_train', [True, False])
def test_a_lack_of_memory_names_what_helps(tmp_path, net, loader, monkeypatch, is_train):
    def exhaust(*_):
        raise torch.OutOfMemoryError('CUDA out of memory.')

    monkeypatch.setattr(Rescaler, 'downscale', exhaust)
    with pytest.raises(MemoryError, match='the GPU has left: validate on smaller images') as error:
        validator(tmp_path, is_train).run(net, loader(), CPU, 1, None, False)
    assert 'batch_size' not in str(error.value)
    assert ('--auto_resume' in str(error.value)) == is_train  # a test has nothing to resume


def test_what_a_metric_cannot_measure_costs_that_figure(tmp_path, net, loader, basicsr_log, monkeypatch):
    """Not the training, nor other figures; the best value of an earlier validation stays."""
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'broken', lambda img, img2: 1 / 0)
    images = write_photographs(tmp_path / 'mixed', 2)
    (write_photographs(tmp_path / 'small', 1, height=16, width=40) / 'photo0.png').rename(images / 'small.png')
    mixed = validator(tmp_path, True, {**METRICS, 'broken': {'type': 'broken'}}, sigmas=(0, 1), lr_metrics=LR_METRICS)
    mixed.best = {'photographs': {'sigma_0/broken': (3.0, 1)}}
    mixed.run(net, loader(dataroot_gt=str(images)), CPU, 5, None, save_img=False)
    table = (tmp_path / 'experiments_root/validation/photographs/5/table.md').read_text()
    named = 'photo0: broken: division by zero; photo1: broken: division by zero; small: ssim_y: 40x16 pixels'
    for text in (table, basicsr_log.text):
        assert (
            f'5 figure(s) missing, in the means, too: {named} are too few, it takes 19x19 or more and 2 more.' in text
        )
    assert '3 images' in table
    psnr_and_ssim, broken = table.splitlines()[4].split(' | ')[1:3], table.splitlines()[4].split(' | ')[3]
    assert all(math.isfinite(float(mean)) for mean in psnr_and_ssim)
    assert broken == 'nan |'
    best = mixed.best['photographs']
    assert best['sigma_0/broken'] == (3.0, 1)
    assert best['sigma_0/psnr_y'][1] == 5
