"""Tasks from what people have: arrays, datasets of torch, PyG and Hugging Face, image folders."""

from tokennet.compare.from_data._task_from import task_from

__all__ = ["task_from"]
