from cassle_jax import config as config_lib


def get_config(variant="cassle"):
  config = config_lib.default()
  config.model.backbone = "conv4"
  config.epochs = 16.0
  config.batch_size = 256
  config.method.temperature = 0.5
  config.awareness.name = variant
  config.optim.name = "adamw"
  config.optim.learning_rate = 2e-3
  config.optim.warmup_epochs = 1.0
  config.evaluation.every = 64
  config.checkpoint.every = 64
  config.log_every = 16
  return config
