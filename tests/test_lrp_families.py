"""LRP conserves relevance in every family of architectures, small and with random weights.

Without constants (biases, position and class tokens) the rules conserve: the map sums to the logit.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from stochx.attributions import LRP

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore")

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2)}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)}
DAVIT = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 16), "num_heads": (2, 2, 2, 2)}
V2 = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
STAGES = [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)]
OF_TORCHVISION = {
    "vit": (32, lambda: models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)),
    "swin": (32, lambda: models.SwinTransformer([2, 2], 12, [2, 2], [2, 2], [4, 4], num_classes=5)),
    "swin v2": (32, lambda: models.SwinTransformer([2, 2], 12, [2, 2], [2, 2], [4, 4], num_classes=5, **V2)),
    "maxvit": (64, lambda: MaxVit((64, 64), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=5)),
    "convnext": (64, lambda: models.ConvNeXt(STAGES, num_classes=5)),
}
NAMES = "alexnet vgg11_bn squeezenet1_1 resnet18 resnext50_32x4d densenet121 efficientnet_b0 mobilenet_v2"
NAMES += " mobilenet_v3_small regnet_y_400mf shufflenet_v2_x0_5 mnasnet0_5"
OF_TIMM = {
    "vit_tiny_patch16_224": VIT,
    "deit_tiny_distilled_patch16_224": VIT,
    "deit3_small_patch16_224": VIT,
    "vit_small_patch14_reg4_dinov2": VIT,
    "vit_base_patch16_clip_224": VIT,
    "vit_base_patch16_siglip_224": VIT,
    "beit_base_patch16_224": VIT,
    "eva02_tiny_patch14_224": VIT,
    "vit_small_patch16_dinov3": VIT,
    "swin_tiny_patch4_window7_224": SWIN,
    "swinv2_tiny_window8_256": SWIN,
    "swinv2_cr_tiny_ns_224": SWIN,
    "convnext_atto": CONVNEXT,
    "convnextv2_atto": CONVNEXT,
    "davit_tiny": DAVIT,
    "cait_xxs24_224": {"img_size": 64, "depth": 2},
    "tnt_s_patch16_224": {"img_size": 64, "depth": 2},
    "xcit_nano_12_p16_224": {"img_size": 64, "depth": 2},
    "mixer_s16_224": {"img_size": 64},
    "twins_pcpvt_small": {"img_size": 64, "depths": (1, 1, 1, 1)},
    "twins_svt_small": {"img_size": 64, "depths": (1, 1, 1, 1)},
}
QUICK = {"vit", "swin", "swin v2", "convnext", "squeezenet1_1", "vit_tiny_patch16_224", "eva02_tiny_patch14_224"}
QUICK |= {"deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"}
QUICK |= {"swinv2_tiny_window8_256", "convnextv2_atto", "cait_xxs24_224", "xcit_nano_12_p16_224"}
SIZED = "pit_ti_224 coatnet_nano_rw_224 maxvit_rmlp_pico_rw_256 gcvit_xxtiny visformer_tiny gmlp_ti16_224 resmlp_12_224"
SIZED += " vitamin_small_224 maxvit_tiny_tf_224 convit_tiny nest_tiny efficientvit_m0 levit_128s"
PLAIN = "pvt_v2_b0 nextvit_small mobilenetv4_hybrid_medium edgenext_xx_small swiftformer_xs mambaout_femto starnet_s1"
PLAIN += " ecaresnet26t skresnet18 resnest14d hrnet_w18_small rdnet_tiny inception_next_atto"
PLAIN += " caformer_s18 poolformer_s12 resnetv2_50x1_bit shvit_s1 nfnet_l0 rexnet_100 ghostnet_050 dpn48b"
PLAIN += " ese_vovnet19b_slim repvgg_a0 repvit_m0_9 fastvit_t8 dla34 hgnetv2_b0 selecsls42 lcnet_035 res2net50_26w_4s"
PLAIN += " cspresnet50 resnetv2_50 focalnet_tiny_srf mobilevit_xxs mobilevitv2_050 tf_efficientnet_b0 efficientvit_b0"
PLAIN += " tiny_vit_5m_224"
CASES = {
    **OF_TORCHVISION,
    **{name: (64, lambda name=name: models.get_model(name, weights=None, num_classes=5)) for name in NAMES.split()},
    **{
        n: (o.get("img_size", 64), lambda n=n, o=o: timm.create_model(n, num_classes=5, **o))
        for n, o in OF_TIMM.items()
    },
    **{n: (64, lambda n=n: timm.create_model(n, num_classes=5, img_size=64)) for n in SIZED.split()},
    **{n: (64, lambda n=n: timm.create_model(n, num_classes=5)) for n in PLAIN.split()},
}
CONSTANTS = ("bias", "beta", "_token", "pos_embed", "pos_embedding", "pixel_pos", "patch_pos", "latent")


def drawn(make, x):
    """A network without constants: what starts at zero is drawn anew, batch norms have the deviation of its values."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make().double()
        for name, parameter in net.named_parameters():
            last = name.rpartition(".")[2]
            if (
                last.rstrip("0123456789").endswith(CONSTANTS) or "token_projection" in name
            ):  # it projects constant positions
                parameter.data.zero_()
            elif "gamma" in name or "scale" in last or parameter.dim() < 2:  # norms, and layer scales near zero
                nn.init.normal_(parameter, 1, 0.2)
            elif parameter.abs().max() < 1e-3:  # heads
                nn.init.normal_(parameter, 0, parameter.shape[-1] ** -0.5)
        norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        net.eval()
        for norm in norms:
            norm.momentum = None
            norm.train()
        if norms:
            with torch.no_grad():
                net(x + 0.1 * torch.randn_like(x))
    for norm in norms:
        norm.running_mean.zero_()
    return net.eval()


def logits(net, x):
    with torch.no_grad():
        return net(x)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_relevance_sums_to_the_logit(name):
    side, make = CASES[name]
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = drawn(make, x.repeat(4, 1, 1, 1))
    y = logits(net, x).argmax(1)
    logit = logits(net, x).gather(1, y[:, None])[:, 0]
    for composite in ("epsilon", "cp-lrp") if name in QUICK else ("epsilon",):
        found = LRP(composite, epsilon=1e-12)(net, x, y)
        assert found.map.abs().sum() > 0
        assert (found.gap / logit).abs().max() < 1e-3, composite


@pytest.mark.parametrize("name", ["convnext", "convnextv2_atto"])
def test_attn_lrp_conserves_where_nothing_has_a_softmax(name):
    side, make = CASES[name]
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net = drawn(make, x)
    y = logits(net, x).argmax(1)
    found = LRP("attn-lrp", epsilon=1e-12)(net, x, y)
    assert (found.gap / logits(net, x).gather(1, y[:, None])[:, 0]).abs().max() < 1e-3
