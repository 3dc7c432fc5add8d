"""The run of training_loop_test.py as a config file, for other processes."""

import importlib.util
import os


def get_config():
  path = os.path.join(os.path.dirname(__file__), "training_loop_test.py")
  spec = importlib.util.spec_from_file_location("training_loop_test", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.small()
