"""A small network of every family whose operations a gradient, a map or a rule has to know, with random weights."""

from __future__ import annotations

import pytest
import torch
import torchvision.models as tv
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlock, SwinTransformerBlockV2

CLASSES = 3


def _timm(name, size, **settings):
    def build():
        timm = pytest.importorskip("timm")
        return timm.create_model(name, num_classes=CLASSES, **settings)

    return build, size


def _mlp(size=32, mlp_ratio=(0.5, 4.0), **settings):
    def build():
        from timm.models import mlp_mixer  # an extra

        parts = {key: getattr(mlp_mixer, value) for key, value in settings.items()}
        return mlp_mixer.MlpMixer(
            num_classes=CLASSES, img_size=size, patch_size=8, num_blocks=2, embed_dim=16, mlp_ratio=mlp_ratio, **parts
        )

    return build, size


def _tv_swin(block, **settings):
    return tv.SwinTransformer([4, 4], 16, [2, 1], [2, 4], [4, 4], block=block, num_classes=CLASSES, **settings)


def _tv_convnext():
    return tv.ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 1)], num_classes=CLASSES)


def _tv_maxvit():
    sizes = {"partition_size": 2, "stem_channels": 8, "block_channels": [8, 16], "block_layers": [1, 1], "head_dim": 4}
    return tv.MaxVit(input_size=(64, 64), stochastic_depth_prob=0.0, num_classes=CLASSES, **sizes)


def _vgg():
    made = tv.VGG(tv.vgg.make_layers([8, "M", 16, "M", 32, "M", 512, "M"]), init_weights=False)
    made.classifier = nn.Sequential(nn.Linear(512 * 49, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, CLASSES))
    return made


def _convmixer():
    from timm.models.convmixer import ConvMixer  # an extra

    return ConvMixer(32, 2, num_classes=CLASSES)


def _tv(name):
    return lambda: getattr(tv, name)(num_classes=CLASSES)


VIT = {"depth": 2, "embed_dim": 16, "num_heads": 2, "img_size": 32, "patch_size": 8}
SWIN = {"img_size": 64, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}
STAGES = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 32)}
QUICK = {
    "torchvision ViT": (lambda: tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=CLASSES), 32),
    "torchvision Swin": (lambda: _tv_swin(SwinTransformerBlock), 64),
    "torchvision Swin v2": (lambda: _tv_swin(SwinTransformerBlockV2, downsample_layer=PatchMergingV2), 64),
    "torchvision ConvNeXt": (_tv_convnext, 64),
    "torchvision MaxViT": (_tv_maxvit, 64),
    "ResNet": (_tv("resnet18"), 64),
    "ViT": _timm("vit_tiny_patch16_224", 32, **VIT),
    "ViT, mean of tokens": _timm("vit_tiny_patch16_224", 32, **VIT, global_pool="avg", class_token=False),
    "DeiT, distilled": _timm("deit_tiny_distilled_patch16_224", 32, **VIT),
    "DINOv2, registers": _timm("vit_small_patch14_reg4_dinov2", 32, **VIT),
    "DINOv3": _timm("vit_small_patch16_dinov3", 32, **VIT),
    "CLIP": _timm("vit_base_patch32_clip_224", 32, **VIT),
    "SigLIP": _timm("vit_base_patch16_siglip_224", 32, **VIT),
    "BEiT": _timm("beit_base_patch16_224", 32, **VIT),
    "EVA02": _timm("eva02_tiny_patch14_224", 32, **VIT),
    "CaiT": _timm("cait_xxs24_224", 32, img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2),
    "Swin": _timm("swin_tiny_patch4_window7_224", 64, **SWIN),
    "Swin v2": _timm("swinv2_tiny_window8_256", 64, **SWIN),
    "ConvNeXt": _timm("convnext_atto", 64, **STAGES),
    "ConvNeXt v2": _timm("convnextv2_atto", 64, **STAGES),
    "MLP-Mixer": _mlp(),
    "ResMLP": _mlp(mlp_ratio=4, block_layer="ResBlock", norm_layer="Affine"),
    "gMLP": _mlp(mlp_ratio=4, block_layer="SpatialGatingBlock", mlp_layer="GatedMlp"),
    "XCiT": _timm("xcit_nano_12_p16_224", 64, depth=2),
    "TNT": _timm("tnt_s_patch16_224", 32, img_size=32, depth=2),
    "MambaOut": _timm("mambaout_femto", 64, depths=(1, 1, 1, 1), dims=(16, 32, 48, 64)),
    "PiT": _timm("pit_ti_224", 64, img_size=64, depth=(1, 1, 1)),
    "PVT v2": _timm("pvt_v2_b0", 64, depths=(1, 1, 1, 1)),
    "Twins-PCPVT": _timm("twins_pcpvt_small", 64, img_size=64, depths=(1, 1, 1, 1)),
    "Visformer": _timm("visformer_tiny", 64, img_size=64, depth=(1, 1, 1)),
    "ConViT": _timm("convit_tiny", 32, img_size=32, depth=2),
    "Twins-SVT": _timm("twins_svt_small", 64, img_size=64, depths=(1, 1, 1, 1)),
    "MobileNet v3": (_tv("mobilenet_v3_small"), 64),
}
SLOW = {
    # No symbol passes these: their operations are recorded.
    "MobileViT": _timm("mobilevit_xxs", 64),
    "MobileViT v2": _timm("mobilevitv2_050", 64),
    "CrossViT": _timm("crossvit_tiny_240", 240),
    "NesT": _timm("nest_tiny", 64, img_size=64),
    "EfficientViT": _timm("efficientvit_m0", 64, img_size=64),
    "TensorFlow's EfficientNet": _timm("tf_efficientnet_b0", 64),
    "EfficientNet": (_tv("efficientnet_b0"), 64),
    "RegNet": (_tv("regnet_y_400mf"), 64),
    "DenseNet": (_tv("densenet121"), 64),
    "BiT": _timm("resnetv2_50x1_bit", 64),
    "PoolFormer v2": _timm("poolformerv2_s12", 64),
    "CAFormer": _timm("caformer_s18", 64),
    "EfficientFormer": _timm("efficientformer_l1", 224),
    "CoAtNet": _timm("coatnet_0_rw_224", 64, img_size=64),
    "MaxViT": _timm("maxvit_nano_rw_256", 64, img_size=64),
    "LeViT": _timm("levit_128s", 64, img_size=64),
    "EdgeNeXt": _timm("edgenext_xx_small", 64),
    "FocalNet": _timm("focalnet_tiny_srf", 64),
    "StarNet": _timm("starnet_s1", 64),
    "SKNet": _timm("skresnet18", 64),
    "ResNeSt": _timm("resnest14d", 64),
    "NFNet": _timm("nfnet_l0", 64),
    "DaViT": _timm("davit_tiny", 64, depths=(1, 1, 1, 1), embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4)),
    "GCViT": _timm("gcvit_xxtiny", 64, img_size=64),
    "SwiftFormer": _timm("swiftformer_xs", 64),
    "MobileNet v4, hybrid": _timm("mobilenetv4_hybrid_medium", 64),
    "HRNet": _timm("hrnet_w18_small", 64),
    "ECA-ResNet": _timm("ecaresnet26t", 64),
    "RepViT": _timm("repvit_m0_9", 64),
    "GhostNet": _timm("ghostnet_050", 64),
    "FastViT": _timm("fastvit_t8", 64),
    "Inception-NeXt": _timm("inception_next_atto", 64, depths=(1, 1, 1, 1)),
    "RDNet": _timm("rdnet_tiny", 64),
    "ViTamin": _timm("vitamin_small_224", 64, img_size=64),
    "SHViT": _timm("shvit_s1", 64),
    "VOLO": _timm("volo_d1_224", 64, img_size=64),
    "NextViT": _timm("nextvit_small", 64),
    "EfficientFormer v2": _timm("efficientformerv2_s0", 224),
}
OTHERS = {  # of the support table, beside those above
    "AlexNet": (_tv("alexnet"), 96),
    "VGG": (_vgg, 64),
    "SqueezeNet": (_tv("squeezenet1_1"), 64),
    "GoogLeNet": (lambda: tv.googlenet(num_classes=CLASSES, init_weights=False), 64),
    "Inception v3": (lambda: tv.inception_v3(num_classes=CLASSES, init_weights=False), 96),
    "MobileNet v2": (_tv("mobilenet_v2"), 64),
    "MNASNet": (_tv("mnasnet0_5"), 64),
    "ShuffleNet v2": (_tv("shufflenet_v2_x0_5"), 64),
    "ResNeXt": _timm("resnext26ts", 64),
    "SE-ResNet": _timm("legacy_seresnet18", 64),
    "Res2Net": _timm("res2net50_14w_8s", 64),
    "CSPNet": _timm("cs3darknet_s", 64),
    "ReXNet": _timm("rexnet_100", 64),
    "DPN": _timm("dpn48b", 64),
    "VoVNet": _timm("ese_vovnet19b_slim_dw", 64),
    "RepVGG": _timm("repvgg_a0", 64),
    "MobileOne": _timm("mobileone_s0", 64),
    "ConvMixer": (_convmixer, 64),
    "DLA": _timm("dla46_c", 64),
    "HGNet": _timm("hgnetv2_b0", 64),
    "SelecSLS": _timm("selecsls42b", 64),
    "Xception": _timm("xception41p", 64),
    "LCNet": _timm("lcnet_050", 64),
    "MobileNet v4": _timm("mobilenetv4_conv_small", 64),
    "DeiT III": _timm("deit3_small_patch16_224", 32, **VIT),
    "Swin v2, CR": _timm("swinv2_cr_tiny_ns_224", 64, **SWIN),
    "Hiera": _timm("hiera_tiny_224", 64, img_size=(64, 64), stages=(1, 1, 1, 1)),
    "TinyViT": _timm("tiny_vit_5m_224", 64, depths=(1, 1, 1, 1), window_sizes=(2, 2, 2, 2)),
    "NaFlexViT": _timm("naflexvit_base_patch16_gap", 64, depth=2, embed_dim=64, num_heads=2),
    "EfficientViT (MIT)": _timm("efficientvit_b0", 64),
    "EfficientViT (MSRA)": _timm("efficientvit_m0", 224),
    "MViT v2": _timm("mvitv2_tiny", 64, img_size=64),
    "Sequencer": _timm("sequencer2d_s", 64, img_size=64, layers=(1, 1, 1, 1)),
}
FAMILIES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def network(name: str) -> tuple[nn.Module, int]:
    """Return the network of a family in float64 and the side of its images; nothing in it is zero or one by design."""
    build, size = (QUICK | SLOW | OTHERS)[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build().double().eval()
        for parameter in made.parameters():
            parameter.data += (0.2 if parameter.dim() < 2 else 0.02) * torch.randn_like(parameter)
        for key, buffer in made.named_buffers():
            if key.endswith("running_mean"):
                buffer += 0.1 * torch.randn_like(buffer)
            elif key.endswith("running_var"):
                buffer *= 0.5 + torch.rand_like(buffer)
    return made, size
