"""What a run of everything looks for, in place of prompts, and its usual settings. Knows no models and no pixels."""

EVERYTHING = "everything"  # stands where other runs have prompts, and is the class of all that is found

# As in the library's mask generation, and in Meta's: `points_per_crop` and `pred_iou_thresh` in
# https://github.com/huggingface/transformers/blob/main/src/transformers/pipelines/mask_generation.py.
POINTS_PER_SIDE = 32
THRESHOLD = 0.88

MOST_POINTS_PER_SIDE = 128  # 16,384 points
