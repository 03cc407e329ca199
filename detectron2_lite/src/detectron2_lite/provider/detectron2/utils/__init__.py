"""Helpers of Detectron2: logging, files, processes, drawing."""
