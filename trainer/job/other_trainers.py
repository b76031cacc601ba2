"""Keys of kohya's sd-scripts and of other trainers that a job does not have: each with what to do instead."""

from __future__ import annotations

NO_CONVOLUTIONS = "write targets in [network] for other layers; network_dim and network_alpha hold for all of them"
RANK = "write coefficients in [network]; of method lora, loha, lokr or vera the rank is network_dim"
ALPHA = "write scaling in [network]; of method lora, loha, lokr or adalora alpha is network_alpha"
COEFFICIENTS = "write coefficients in [network], how many each layer trains"
PATTERNS = "write patterns: [network] coefficients_pattern or exclude, [optimizer] learning_rate_pattern"
FP32_ALWAYS = "coefficients are always fp32; the base follows [train] mixed_precision. Remove it"
ATTENTION = 'write attention in [train]: "sdpa", "xformers" or "eager"'
LAST_BUT_ONE = "SDXL always takes the last layer but one of its text encoders. Remove it"
ONLY_SDXL = "only SDXL is trained. Remove it"
NO_WORKERS = "nothing is loaded by workers: latents are encoded once. Remove it"
BASE_DTYPE = 'write base_dtype = "fp8" in [model]'
NO_MEMORY_TRICK = "models are loaded one after the other anyway. Remove it"
KEEP_LAST = "write keep_last in [save]: how many checkpoints stay"
STATES = "write save_state in [save]: a state is kept with every checkpoint"
PUBLISH = "not a part of training: use `python -m trainer.publish` afterwards. Remove it"
IMAGE_DIR = "write image_dir in [[datasets.subsets]]"
VAE_AT_ONCE = "pictures are encoded one at a time, so that their latents depend on nothing else. Remove it"
NO_COMMENT = "not read here. Remove it"
LOSS_TYPE = 'write loss_type = "l2", "l1", "huber" or "smooth_l1" in [loss]'
TIMESTEPS = "timesteps are drawn evenly between [loss] min_timestep and max_timestep. Remove it"

FOREIGN = {
    # the network
    "network_module": 'write method in [network]: "waveft", "lora", "loha", "lokr" and others',
    "algo": "write method in [network]",
    **dict.fromkeys(("network_rank", "rank", "r", "lora_r", "lora_rank", "dim"), RANK),
    **dict.fromkeys(("alpha", "lora_alpha"), ALPHA),
    **dict.fromkeys(("conv_dim", "conv_alpha"), NO_CONVOLUTIONS),
    **dict.fromkeys(
        ("block_lr", "block_dims", "block_alphas", "conv_block_dims", "block_lr_zero_threshold", "down_lr_weight"),
        PATTERNS,
    ),
    **dict.fromkeys(("mid_lr_weight", "up_lr_weight", "train_blocks"), PATTERNS),
    "network_args": "write its entries as keys of [network]",
    # the paper's names of WaveFT's settings, and PEFT's
    **dict.fromkeys(("lambda", "lambda_", "lamda", "lambd"), "write scaling in [network], which is the paper's lambda"),
    **dict.fromkeys(("num_coefficients", "n_coefficients", "p"), COEFFICIENTS),
    "wavelet_family": "write wavelet in [network]",
    "use_idwt": 'write wavelet in [network]: "identity" is without the transform',
    "n_frequency_pattern": "write coefficients_pattern in [network]",
    "proportional_parameters": 'write allocation = "proportional" in [network]',
    **dict.fromkeys(("layers_to_transform", "layers_pattern"), "write include or exclude in [network]"),
    "exclude_modules": "write exclude in [network]",
    "target_modules": "write targets in [network]",
    "location_seed": 'write locations = "uniform:SEED" in [network]',
    "level": "the transform goes one level deep, as the paper's. Remove it",
    "init": "coefficients begin at zero, or where [network] network_weights left them. Remove it",
    **dict.fromkeys(
        ("network_dropout", "rank_dropout", "module_dropout", "scale_weight_norms"),
        "nothing is dropped or clipped on the way. Remove it",
    ),
    "network_multiplier": "an adapter is always trained at strength 1. Remove it",
    "network_train_unet_only": "the UNet alone is trained unless train_text_encoder = true in [network]. Remove it",
    "network_train_text_encoder_only": "the UNet is always trained. Write train_text_encoder = true in [network] to "
    "train the text encoders too",
    "dim_from_weights": "network_weights brings its own size. Remove it",
    "base_weights": "merge it into the base first: `python -m waveft_core merge`",
    "base_weights_multiplier": "merge base_weights into the base first: `python -m waveft_core merge`",
    "train_unet": "the UNet is always trained. Remove it",
    "stop_text_encoder_training": "text encoders train to the end or not at all: [network] train_text_encoder",
    **dict.fromkeys(("learning_rate_te", "learning_rate_te1", "learning_rate_te2"), "write text_encoder_lr"),
    "unet_lr": "write learning_rate in [optimizer]; text_encoder_lr for the text encoders",
    # optimizer and length
    "use_8bit_adam": 'write optimizer_type = "AdamW8bit" in [optimizer]',
    "use_lion_optimizer": 'write optimizer_type = "Lion" in [optimizer]',
    "lr_scheduler_type": "write lr_scheduler in [optimizer], also for the dotted path of a class",
    **dict.fromkeys(("lr_decay_steps", "lr_scheduler_timescale"), "write it in [optimizer] lr_scheduler_args"),
    "lr_scheduler_min_lr_ratio": "write lr_scheduler_args = { min_lr_rate = ... } in [optimizer]",
    "fused_backward_pass": "coefficients are so few that nothing is saved. Remove it",
    "fused_optimizer_groups": "coefficients are so few that nothing is saved. Remove it",
    "epoch": "write max_train_epochs in [train]",
    "epochs": "write max_train_epochs in [train]",
    "steps": "write max_train_steps in [train]",
    "max_train_epoch": "write max_train_epochs in [train]",
    "full_bf16": FP32_ALWAYS,
    "full_fp16": FP32_ALWAYS,
    **dict.fromkeys(("fp8_base", "fp8_base_unet"), BASE_DTYPE),
    **dict.fromkeys(("xformers", "sdpa", "mem_eff_attn", "use_xformers", "split_attn"), ATTENTION),
    **dict.fromkeys(("lowram", "highvram", "cpu_offload_checkpointing"), NO_MEMORY_TRICK),
    **dict.fromkeys(
        ("max_data_loader_n_workers", "persistent_data_loader_workers", "dataloader_num_workers"), NO_WORKERS
    ),
    "torch_compile_backend": "write torch_compile = true in [train]",
    "dynamo_backend": "write torch_compile = true in [train]",
    "allow_tf32": "torch's own setting holds. Remove it",
    **dict.fromkeys(
        ("ddp_timeout", "ddp_gradient_as_bucket_view", "ddp_static_graph", "deepspeed"),
        "several processes add up their gradients in one message. Remove it",
    ),
    "num_cpu_threads_per_process": "write threads in [train]",
    "stop_on_nan": "a loss that is not finite always stops the run. Remove it",
    "nan_tolerance": "a loss that is not finite always stops the run. Remove it",
    "ema": "write ema_decay in [train]",
    "skip_until_initial_step": "a run goes on exactly where it was: start it with `--resume latest`. Remove it",
    "initial_step": "a run goes on exactly where it was: start it with `--resume latest`. Remove it",
    "initial_epoch": "a run goes on exactly where it was: start it with `--resume latest`. Remove it",
    "resume": "not a key: start the run with `--resume latest` or `--resume FILE`. Remove it",
    # the model
    "no_half_vae": 'write vae_dtype = "fp32" in [model]; auto is as safe',
    "v2": ONLY_SDXL,
    "sdxl": ONLY_SDXL,
    "clip_skip": LAST_BUT_ONE,
    "weighted_captions": "brackets in captions are taken as text. Remove it",
    "tokenizer_cache_dir": "write tokenizer in [model]",
    "disable_mmap_load_safetensors": NO_MEMORY_TRICK,
    "diffusers_xformers": ATTENTION,
    # pictures and captions
    "train_batch_size": "write batch_size in [general]",
    "train_data_dir": f"{IMAGE_DIR}; folders named N_concept in it are found",
    "reg_data_dir": f"{IMAGE_DIR}, with is_reg = true; folders named N_concept in it are found",
    "in_json": "write metadata_file in [[datasets.subsets]]",
    "dataset_repeats": "write num_repeats in [[datasets.subsets]]",
    "dataset_config": "write it at the top of the job, before the first [section]",
    "dataset_class": "pictures come from folders. Remove it",
    "cache_info": "files are read anew in every run, and what is encoded is kept by content. Remove it",
    "face_crop_aug_range": "crops about faces are not made. Remove it, or use random_crop",
    "custom_attributes": NO_COMMENT,
    "debug_dataset": "not a key: start with `--dry-run`, which shows sizes and captions. Remove it",
    "alpha_mask_dir": "write conditioning_data_dir in [[datasets.subsets]]",
    "vae_batch_size": VAE_AT_ONCE,
    "text_encoder_batch_size": "captions are encoded one at a time. Remove it",
    "skip_cache_check": "an entry of the cache has its content's name: nothing is to be skipped. Remove it",
    "skip_image_resolution": "name what is to be trained: pictures are enlarged unless bucket_no_upscale. Remove it",
    # the loss
    "loss": LOSS_TYPE,
    "v_pred_like_loss": "write scale_v_pred_loss_like_noise_pred in [loss], or min_snr_gamma",
    "snr_gamma": "write min_snr_gamma in [loss]",
    **dict.fromkeys(("timestep_sampling", "sigmoid_scale", "discrete_flow_shift", "weighting_scheme"), TIMESTEPS),
    "perlin_noise": "write multires_noise_iterations in [loss]",
    "with_prior_preservation": "write a [[datasets.subsets]] with is_reg = true and num_class_images",
    # saving, samples, the log
    "save_model_as": "adapters are .safetensors files; `python -m waveft_core convert` makes others. Remove it",
    **dict.fromkeys(
        ("save_last_n_steps", "save_last_n_epochs", "save_last_n_steps_state", "save_last_n_epochs_state"), KEEP_LAST
    ),
    **dict.fromkeys(("save_state_on_train_end", "save_state_to_huggingface", "checkpointing_steps"), STATES),
    "save_n_epoch_ratio": "write save_every_n_epochs in [save]",
    **dict.fromkeys(
        (
            "huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo", "huggingface_token",
            "huggingface_repo_visibility", "resume_from_huggingface", "async_upload", "push_to_hub", "hub_token",
        ),
        PUBLISH,
    ),
    "log_prefix": "write wandb_run_name in [logging]",
    "log_config": "the whole job is in the adapter, the report and the log. Remove it",
    "log_tracker_config": "write log_tracker_name and wandb_run_name in [logging]",
    "wandb_api_key": "log in with `wandb login`, or set WANDB_API_KEY: keys do not belong into a job. Remove it",
    "console_log_level": NO_COMMENT,
    "console_log_file": NO_COMMENT,
    "log_every_n_steps": "metrics.jsonl has every step. Remove it",
    "config_file": "a job is one file, which --config names. Remove it",
    "output_config": "not a key: `--dry-run` prints the job with every default. Remove it",
    "cfg_scale": "write guidance_scale in [sample]",
    "sample_every": "write sample_every_n_steps in [sample]",
    "trigger_word": "write trigger_phrase in [metadata]",
}  # fmt: skip
