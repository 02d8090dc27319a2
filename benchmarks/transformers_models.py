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
UNPADDED = tokens(12, VOCABULARY, "input_ids")
ANSWER = tokens(8, VOCABULARY, "decoder_input_ids")
IMAGE = floats("pixel_values", 3, SIDE, SIDE)
LARGE_IMAGE = floats("pixel_values", 3, 2 * SIDE, 2 * SIDE)
VIDEO = floats("pixel_values", 4, 3, SIDE, SIDE)
WAVE = floats("input_values", 1600)
TRANSLATION = together(TEXT, ANSWER)
CAPTION = together(TEXT, IMAGE)

BLOCKS: Options = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
WORDS: Options = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER: Options = BLOCKS | WORDS | {"max_position_embeddings": 64}
DECODER: Options = ENCODER | {"use_cache": False}
GROUPED: Options = DECODER | {"num_key_value_heads": 2, "head_dim": 16}
SLIDING: Options = GROUPED | {"sliding_window": 8}
EXPERTS: Options = GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LATENT: Options = {
    "n_routed_experts": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "head_dim": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
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
PATCHES: Options = BLOCKS | {"image_size": SIDE, "patch_size": 8}
STAGES: Options = {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 2, 1]}
PYRAMID: Options = {"hidden_sizes": [16, 32, 64, 96], "num_attention_heads": [1, 2, 4, 6]}
WINDOWS: Options = {
    "image_size": SIDE,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2, 2],
    "num_heads": [2, 4, 8],
    "window_size": 4,
}
RESNET: Options = {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]}
BACKBONE: Options = RESNET | {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
WAVES: Options = BLOCKS | {
    "vocab_size": VOCABULARY,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
TOWERS: Options = {"text_config": ENCODER, "vision_config": PATCHES}

# The classes by name, each with the options of its configuration and its inputs.
MODELS: dict[str, tuple[Options, Inputs]] = {
    # encoders of text
    "BertForSequenceClassification": (ENCODER, TEXT),
    "BertForMaskedLM": (ENCODER, TEXT),
    "RobertaForSequenceClassification": (ENCODER, TEXT),
    "XLMRobertaForTokenClassification": (ENCODER, TEXT),
    "DistilBertForSequenceClassification": (ENCODER | {"hidden_dim": 128}, TEXT),
    "AlbertForSequenceClassification": (ENCODER | {"embedding_size": 32}, TEXT),
    "DebertaV2ForSequenceClassification": (
        ENCODER | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
        TEXT,
    ),
    "ElectraForSequenceClassification": (ENCODER | {"embedding_size": 32}, TEXT),
    "MPNetForSequenceClassification": (ENCODER, TEXT),
    "ModernBertForSequenceClassification": (
        ENCODER | {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
        TEXT,
    ),
    "MegatronBertForSequenceClassification": (ENCODER, TEXT),
    "RoFormerForSequenceClassification": (ENCODER | {"embedding_size": 64}, TEXT),
    "MobileBertForSequenceClassification": (
        ENCODER | {"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
        TEXT,
    ),
    "SqueezeBertForSequenceClassification": (ENCODER | {"embedding_size": 64}, TEXT),
    "ConvBertForSequenceClassification": (ENCODER | {"embedding_size": 32}, TEXT),
    "FNetForSequenceClassification": (ENCODER | {"tpu_short_seq_length": 12}, UNPADDED),
    "NystromformerForSequenceClassification": (ENCODER | {"num_landmarks": 4, "segment_means_seq_len": 12}, UNPADDED),
    "LongformerForSequenceClassification": (ENCODER | {"attention_window": 4}, TEXT),
    "BigBirdForSequenceClassification": (ENCODER | {"attention_type": "original_full"}, TEXT),
    "FunnelForSequenceClassification": (
        WORDS | {"block_sizes": [1, 1], "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 128},
        TEXT,
    ),
    "XLNetForSequenceClassification": (
        WORDS | {"d_model": 64, "n_layer": 3, "n_head": 4, "d_inner": 128, "use_mems_eval": False},
        TEXT,
    ),
    "LayoutLMForTokenClassification": (ENCODER | {"max_2d_position_embeddings": 16}, TEXT),
    "CanineForSequenceClassification": (
        ENCODER | {"num_hash_buckets": 64, "local_transformer_stride": 8},
        tokens(16, VOCABULARY, "input_ids", mask=True),
    ),
    "PerceiverForSequenceClassification": (
        {"vocab_size": VOCABULARY, "max_position_embeddings": 16}
        | {"d_model": 64, "d_latents": 64, "num_latents": 8, "num_self_attends_per_block": 2}
        | {"num_self_attention_heads": 4, "num_cross_attention_heads": 4},
        tokens(12, VOCABULARY, "inputs"),
    ),
    # decoders
    "GPT2LMHeadModel": (DECODER, TEXT),
    "GPT2ForSequenceClassification": (DECODER, TEXT),
    "GPTNeoXForCausalLM": (DECODER, TEXT),
    "GPTJForCausalLM": (DECODER | {"rotary_dim": 8}, TEXT),
    "LlamaForCausalLM": (DECODER, TEXT),
    "LlamaForSequenceClassification": (GROUPED, TEXT),
    "MistralForCausalLM": (SLIDING, TEXT),
    "Qwen2ForCausalLM": (GROUPED, TEXT),
    "Qwen3ForCausalLM": (GROUPED, TEXT),
    "GemmaForCausalLM": (GROUPED, TEXT),
    "Gemma2ForCausalLM": (SLIDING, TEXT),
    "Gemma3ForCausalLM": (SLIDING, TEXT),
    "PhiForCausalLM": (DECODER, TEXT),
    "Phi3ForCausalLM": (GROUPED, TEXT),
    "OPTForCausalLM": (DECODER | {"ffn_dim": 128, "word_embed_proj_dim": 64}, TEXT),
    "BloomForCausalLM": (DECODER, TEXT),
    "FalconForCausalLM": (DECODER, TEXT),
    "StableLmForCausalLM": (GROUPED, TEXT),
    "CohereForCausalLM": (GROUPED, TEXT),
    "OlmoForCausalLM": (GROUPED, TEXT),
    "GlmForCausalLM": (GROUPED, TEXT),
    "GraniteForCausalLM": (DECODER | {"num_key_value_heads": 2}, TEXT),
    "Starcoder2ForCausalLM": (GROUPED, TEXT),
    "XGLMForCausalLM": (DECODER | {"ffn_dim": 128}, TEXT),
    "MptForCausalLM": (DECODER | {"max_seq_len": 32}, TEXT),
    "CTRLLMHeadModel": (DECODER | {"dff": 128}, TEXT),
    # an encoder and a decoder
    "T5ForConditionalGeneration": (T5, TRANSLATION),
    "MT5ForConditionalGeneration": (T5 | {"feed_forward_proj": "gated-gelu"}, TRANSLATION),
    "BartForConditionalGeneration": (SEQUENCES, TRANSLATION),
    "MBartForConditionalGeneration": (SEQUENCES, TRANSLATION),
    "MarianMTModel": (SEQUENCES, TRANSLATION),
    "PegasusForConditionalGeneration": (SEQUENCES, TRANSLATION),
    "BlenderbotSmallForConditionalGeneration": (SEQUENCES, TRANSLATION),
    "M2M100ForConditionalGeneration": (SEQUENCES, TRANSLATION),
    "LEDForConditionalGeneration": (
        SEQUENCES
        | {"attention_window": 4, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64},
        TRANSLATION,
    ),
    "FSMTForConditionalGeneration": (
        SEQUENCES | {"src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY, "langs": ["de", "en"]},
        TRANSLATION,
    ),
    "ProphetNetForConditionalGeneration": (
        WORDS
        | {"hidden_size": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64}
        | {"num_encoder_layers": 2, "num_decoder_layers": 2}
        | {"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "use_cache": False},
        TRANSLATION,
    ),
    # images and videos
    "ViTForImageClassification": (PATCHES, IMAGE),
    "DeiTForImageClassification": (PATCHES, IMAGE),
    "BeitForImageClassification": (PATCHES | {"use_relative_position_bias": True}, IMAGE),
    "Dinov2ForImageClassification": (PATCHES | {"mlp_ratio": 2}, IMAGE),
    "SwinForImageClassification": (WINDOWS, IMAGE),
    "Swinv2ForImageClassification": (WINDOWS, IMAGE),
    "ConvNextForImageClassification": (STAGES, IMAGE),
    "ConvNextV2ForImageClassification": (STAGES, IMAGE),
    "ResNetForImageClassification": (RESNET, IMAGE),
    "RegNetForImageClassification": (STAGES | {"embedding_size": 16, "groups_width": 8}, LARGE_IMAGE),
    "EfficientNetForImageClassification": (
        {"image_size": 2 * SIDE, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        LARGE_IMAGE,
    ),
    "PoolFormerForImageClassification": (STAGES, LARGE_IMAGE),
    "PvtForImageClassification": (PYRAMID | {"image_size": 2 * SIDE, "depths": [1, 1, 1, 1]}, LARGE_IMAGE),
    "LevitForImageClassification": (
        {"image_size": 2 * SIDE, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4]}
        | {"depths": [2, 2, 2], "key_dim": [8, 8, 8]},
        LARGE_IMAGE,
    ),
    "FocalNetForImageClassification": (
        {"image_size": 2 * SIDE, "embed_dim": 16, "depths": [1, 1, 2, 1]},
        LARGE_IMAGE,
    ),
    "MobileViTForImageClassification": (
        {"image_size": 2 * SIDE, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]},
        LARGE_IMAGE,
    ),
    "SegformerForSemanticSegmentation": (PYRAMID | {"decoder_hidden_size": 64}, LARGE_IMAGE),
    "UperNetForSemanticSegmentation": (
        {"backbone_config": BACKBONE, "hidden_size": 32, "auxiliary_in_channels": 96, "auxiliary_channels": 16},
        LARGE_IMAGE,
    ),
    "DPTForDepthEstimation": (
        PATCHES
        | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]}
        | {"neck_hidden_sizes": [16, 32, 48, 64], "fusion_hidden_size": 32},
        IMAGE,
    ),
    "DetrForObjectDetection": (SEQUENCES | {"num_queries": 6, "backbone_config": BACKBONE}, LARGE_IMAGE),
    "YolosForObjectDetection": (PATCHES | {"image_size": [SIDE, SIDE], "num_detection_tokens": 6}, IMAGE),
    "VideoMAEForVideoClassification": (PATCHES | {"num_frames": 4}, VIDEO),
    "TimesformerForVideoClassification": (PATCHES | {"num_frames": 4}, VIDEO),
    # sounds and time series
    "Wav2Vec2ForCTC": (WAVES, WAVE),
    "HubertForCTC": (WAVES, WAVE),
    "WavLMForCTC": (WAVES, WAVE),
    "SEWForCTC": (WAVES, WAVE),
    "Data2VecAudioForCTC": (WAVES, WAVE),
    "ASTForAudioClassification": (
        BLOCKS | {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16},
        floats("input_values", 32, 16),
    ),
    "WhisperForConditionalGeneration": (
        SEQUENCES | {"num_mel_bins": 20, "max_source_positions": 30, "max_target_positions": 16},
        together(floats("input_features", 20, 60), ANSWER),
    ),
    "Speech2TextForConditionalGeneration": (
        SEQUENCES
        | {"input_feat_per_channel": 20, "conv_channels": 32}
        | {"max_source_positions": 60, "max_target_positions": 16},
        together(floats("input_features", 60, 20), ANSWER),
    ),
    "SpeechT5ForSpeechToText": (WAVES | SEQUENCES, together(WAVE, ANSWER)),
    "PatchTSTForPrediction": (
        {"d_model": 64, "ffn_dim": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_input_channels": 3}
        | {"context_length": 32, "patch_length": 8, "patch_stride": 8, "prediction_length": 8},
        floats("past_values", 32, 3),
    ),
    # text and images
    "CLIPModel": (TOWERS | {"projection_dim": 64}, CAPTION),
    "SiglipModel": (TOWERS, CAPTION),
    "OwlViTForObjectDetection": (TOWERS | {"projection_dim": 64}, CAPTION),
    "BlipForConditionalGeneration": (
        {"text_config": ENCODER | {"sep_token_id": 2}, "vision_config": PATCHES},
        CAPTION,
    ),
    "ViltForImageAndTextRetrieval": (ENCODER | PATCHES, CAPTION),
    "BridgeTowerModel": (BLOCKS | {"num_hidden_layers": 2} | TOWERS, CAPTION),
    "VisualBertForQuestionAnswering": (
        ENCODER | {"visual_embedding_dim": 32},
        together(TEXT, floats("visual_embeds", 6, 32)),
    ),
    "LxmertForQuestionAnswering": (
        ENCODER | {"l_layers": 2, "r_layers": 1, "x_layers": 1, "visual_feat_dim": 32, "num_qa_labels": 9},
        together(TEXT, floats("visual_feats", 6, 32), floats("visual_pos", 6, 4)),
    ),
    # state spaces and recurrences
    "MambaForCausalLM": (DECODER | {"state_size": 8}, TEXT),
    "Mamba2ForCausalLM": (DECODER | {"num_heads": 8, "head_dim": 16, "state_size": 8, "chunk_size": 4}, TEXT),
    "FalconMambaForCausalLM": (DECODER | {"state_size": 8}, TEXT),
    "RecurrentGemmaForCausalLM": (GROUPED | {"lru_width": 64, "attention_window_size": 8}, TEXT),
    "RwkvForCausalLM": (DECODER | {"rescale_every": 0}, UNPADDED),  # else forward divides its own weights, in eval mode
    "xLSTMForCausalLM": (
        WORDS
        | {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4, "chunk_size": 8}
        | {"use_cache": False, "mode": "train"},
        tokens(16, VOCABULARY, "input_ids"),
    ),
    # mixtures of experts
    "MixtralForCausalLM": (EXPERTS, TEXT),
    "Qwen2MoeForCausalLM": (EXPERTS | {"shared_expert_intermediate_size": 64}, TEXT),
    "Qwen3MoeForCausalLM": (EXPERTS, TEXT),
    "OlmoeForCausalLM": (EXPERTS, TEXT),
    "GptOssForCausalLM": (EXPERTS | SLIDING, TEXT),
    "DeepseekV3ForCausalLM": (
        EXPERTS | LATENT | {"num_key_value_heads": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
        TEXT,
    ),
    "JambaForCausalLM": (
        EXPERTS | {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
        TEXT,
    ),
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
