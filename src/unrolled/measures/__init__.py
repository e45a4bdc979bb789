"""How good answers are: translations, captions, labels, each as a figure with what it is uncertain by.

`text` has BLEU and chrF, by sacrebleu; `captions` BLEU-1 to 4 with several references; `cider` CIDEr and
CIDEr-D; `f1` F1 of labels; `accuracy` shares of right answers. None of these needs a model.
"""

from unrolled.measures.accuracy import Accuracy, exact_match
from unrolled.measures.captions import caption_bleu
from unrolled.measures.cider import cider, cider_d
from unrolled.measures.f1 import f1
from unrolled.measures.text import bleu, chrf

__all__ = ["Accuracy", "bleu", "caption_bleu", "chrf", "cider", "cider_d", "exact_match", "f1"]
