"""transformers' architectures, small and with random weights: nothing is downloaded.

The sizes are such that the blocks hold most of the parameters, as they do in the models that people use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from benchmarks.models import Subject, tokens

Inputs = Callable[[int], dict[str, Any]]
Options = dict[str, Any]

VOCABULARY, SIDE = 99, 32


def floats(name: str, *shape: int) -> Inputs:
    """Images, waves and spectrograms: one input of floating-point numbers."""
    return lambda batch: {name: torch.randn(batch, *shape)}


def together(*inputs: Inputs) -> Inputs:
    """The inputs of a model of several modalities, or of an encoder and a decoder."""
    return lambda batch: {name: value for draw in inputs for name, value in draw(batch).items()}


TEXT = tokens(12, VOCABULARY, "input_ids", mask=True)
IMAGE = floats("pixel_values", 3, SIDE, SIDE)
WAVE = floats("input_values", 1600)
TRANSLATION = together(TEXT, tokens(8, VOCABULARY, "decoder_input_ids"))
CAPTION = together(TEXT, IMAGE)

BLOCKS: Options = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
WORDS: Options = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER: Options = BLOCKS | WORDS | {"max_position_embeddings": 64}
DECODER: Options = ENCODER | {"use_cache": False}
GROUPED: Options = DECODER | {"num_key_value_heads": 2, "head_dim": 16}
EXPERTS: Options = GROUPED | {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
PATCHES: Options = BLOCKS | {"image_size": SIDE, "patch_size": 8}
WAVES: Options = BLOCKS | {
    "vocab_size": VOCABULARY,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SEQUENCES: Options = WORDS | {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
T5: Options = WORDS | {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "use_cache": False}
RESNET: Options = {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]}
BACKBONE: Options = RESNET | {"model_type": "resnet", "out_features": ["stage4"]}
TOWERS: Options = {"text_config": ENCODER, "vision_config": PATCHES}

# The classes by name, each with the options of its configuration and its inputs.
MODELS: dict[str, tuple[Options, Inputs]] = {
    # encoders of text
    "BertForSequenceClassification": (ENCODER, TEXT),
    "BertForMaskedLM": (ENCODER, TEXT),
    "RobertaForSequenceClassification": (ENCODER, TEXT),
    "DistilBertForSequenceClassification": (ENCODER | {"hidden_dim": 128}, TEXT),
    "AlbertForSequenceClassification": (ENCODER | {"embedding_size": 32}, TEXT),
    "DebertaV2ForSequenceClassification": (
        ENCODER | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
        TEXT,
    ),
    "ElectraForSequenceClassification": (ENCODER | {"embedding_size": 32}, TEXT),
    "MPNetForSequenceClassification": (ENCODER, TEXT),
    "ModernBertForSequenceClassification": (ENCODER | {"local_attention": 8}, TEXT),
    "XLMRobertaForTokenClassification": (ENCODER, TEXT),
    "ConvBertForSequenceClassification": (ENCODER | {"embedding_size": 32}, TEXT),
    "FNetForSequenceClassification": (ENCODER | {"tpu_short_seq_length": 12}, tokens(12, VOCABULARY, "input_ids")),
    "FunnelForSequenceClassification": (
        WORDS | {"block_sizes": [1, 1], "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128},
        TEXT,
    ),
    "XLNetForSequenceClassification": (
        WORDS | {"d_model": 64, "n_layer": 3, "n_head": 4, "d_inner": 128, "use_mems_eval": False},
        TEXT,
    ),
    # decoders
    "GPT2LMHeadModel": (DECODER, TEXT),
    "GPT2ForSequenceClassification": (DECODER, TEXT),
    "GPTNeoXForCausalLM": (DECODER, TEXT),
    "GPTJForCausalLM": (DECODER | {"rotary_dim": 8}, TEXT),
    "LlamaForCausalLM": (DECODER, TEXT),
    "LlamaForSequenceClassification": (GROUPED, TEXT),
    "MistralForCausalLM": (GROUPED | {"sliding_window": 8}, TEXT),
    "Qwen2ForCausalLM": (GROUPED, TEXT),
    "Qwen3ForCausalLM": (GROUPED, TEXT),
    "GemmaForCausalLM": (GROUPED, TEXT),
    "Gemma2ForCausalLM": (GROUPED | {"sliding_window": 8}, TEXT),
    "PhiForCausalLM": (DECODER, TEXT),
    "Phi3ForCausalLM": (GROUPED, TEXT),
    "OPTForCausalLM": (DECODER | {"ffn_dim": 128, "word_embed_proj_dim": 64}, TEXT),
    "BloomForCausalLM": (DECODER, TEXT),
    "FalconForCausalLM": (DECODER, TEXT),
    "StableLmForCausalLM": (GROUPED, TEXT),
    "CohereForCausalLM": (GROUPED, TEXT),
    "OlmoForCausalLM": (GROUPED, TEXT),
    # encoder and decoder
    "T5ForConditionalGeneration": (T5, TRANSLATION),
    "MT5ForConditionalGeneration": (T5 | {"feed_forward_proj": "gated-gelu"}, TRANSLATION),
    "BartForConditionalGeneration": (SEQUENCES, TRANSLATION),
    "MBartForConditionalGeneration": (SEQUENCES, TRANSLATION),
    "MarianMTModel": (SEQUENCES, TRANSLATION),
    "PegasusForConditionalGeneration": (SEQUENCES, TRANSLATION),
    # images
    "ViTForImageClassification": (PATCHES, IMAGE),
    "DeiTForImageClassification": (PATCHES, IMAGE),
    "BeitForImageClassification": (PATCHES | {"use_relative_position_bias": True}, IMAGE),
    "Dinov2ForImageClassification": (PATCHES | {"mlp_ratio": 2}, IMAGE),
    "SwinForImageClassification": (
        {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2, 2], "num_heads": [2, 4, 8]}
        | {"window_size": 4},
        IMAGE,
    ),
    "ConvNextForImageClassification": ({"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]}, IMAGE),
    "SegformerForSemanticSegmentation": (
        {"hidden_sizes": [16, 32, 64, 96], "num_attention_heads": [1, 2, 4, 6], "decoder_hidden_size": 64},
        floats("pixel_values", 3, 64, 64),
    ),
    "ResNetForImageClassification": (RESNET, IMAGE),
    "MobileViTForImageClassification": (
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]},
        floats("pixel_values", 3, 64, 64),
    ),
    "DPTForDepthEstimation": (
        PATCHES
        | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]}
        | {"neck_hidden_sizes": [16, 32, 48, 64], "fusion_hidden_size": 32},
        IMAGE,
    ),
    "DetrForObjectDetection": (
        SEQUENCES | {"num_queries": 6, "backbone_config": BACKBONE},
        floats("pixel_values", 3, 64, 64),
    ),
    "YolosForObjectDetection": (PATCHES | {"image_size": [SIDE, SIDE], "num_detection_tokens": 6}, IMAGE),
    "VideoMAEForVideoClassification": (
        PATCHES | {"num_frames": 4},
        floats("pixel_values", 4, 3, SIDE, SIDE),
    ),
    # audio
    "Wav2Vec2ForCTC": (WAVES, WAVE),
    "HubertForCTC": (WAVES, WAVE),
    "WavLMForCTC": (WAVES, WAVE),
    "WhisperForConditionalGeneration": (
        SEQUENCES | {"num_mel_bins": 20, "max_source_positions": 30, "max_target_positions": 16},
        together(floats("input_features", 20, 60), tokens(8, VOCABULARY, "decoder_input_ids")),
    ),
    "ASTForAudioClassification": (
        BLOCKS | {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16},
        floats("input_values", 32, 16),
    ),
    # text and images
    "CLIPModel": (TOWERS | {"projection_dim": 64}, CAPTION),
    "SiglipModel": (TOWERS, CAPTION),
    "BlipForConditionalGeneration": (TOWERS, CAPTION),
    "ViltForImageAndTextRetrieval": (ENCODER | PATCHES, CAPTION),
    # state spaces and recurrences
    "MambaForCausalLM": (DECODER | {"state_size": 8}, TEXT),
    "Mamba2ForCausalLM": (DECODER | {"num_heads": 8, "head_dim": 16, "state_size": 8, "chunk_size": 4}, TEXT),
    "RwkvForCausalLM": (DECODER, tokens(12, VOCABULARY, "input_ids")),
    "xLSTMForCausalLM": (
        WORDS
        | {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4, "chunk_size": 8}
        | {"use_cache": False, "mode": "train"},
        tokens(16, VOCABULARY, "input_ids"),
    ),
    # mixtures of experts
    "MixtralForCausalLM": (EXPERTS | {"num_local_experts": 4}, TEXT),
    "Qwen2MoeForCausalLM": (EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 64}, TEXT),
    "SwitchTransformersForConditionalGeneration": (
        T5 | {"num_experts": 4, "num_sparse_encoder_layers": 1},
        TRANSLATION,
    ),
}


def names() -> Sequence[str]:
    return list(MODELS)


def subject(name: str) -> Subject:
    options, inputs = MODELS[name]
    architecture = getattr(transformers, name)
    return Subject(architecture(architecture.config_class(**options)), inputs)
