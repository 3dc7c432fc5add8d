"""The run of train_test.py as a config file, for runs in other processes."""

import importlib.util
import os


def get_config():
  path = os.path.join(os.path.dirname(__file__), "train_test.py")
  spec = importlib.util.spec_from_file_location("train_test", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.small()
