"""Translation: an encoder that reads both ways, and a decoder that looks back at what was read (attention).

    h <-> h <-> h <-> h                     z_t = Σ α h, with weights α of each s_t and every h
    sieben und  vier  zig  ->  s -> s -> END
                               4    7       the tens come last in German, and first in digits

A reader of German numbers, in parts of words that it cuts itself. Prints a few that were not in training as
a beam writes them, where it looked for each digit, and the share without a mistake (at least 0.95).

    python examples/translate.py
"""

import torch
from torch.nn.utils.rnn import pad_sequence

from unrolled.data.subwords import END, PAD, START, Subwords
from unrolled.nn.seq2seq import Seq2Seq
from unrolled.train.decoding import Decoding, Special, decode

NAMES = """null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn
sechzehn siebzehn achtzehn neunzehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig"""


def german(n: int) -> str:
    names, tens, ones = NAMES.split(), n % 100 // 10, n % 10
    small = names[n % 100] if tens < 2 else (names[ones] + "und") * (ones > 0) + names[tens + 18]
    return (names[n // 100] + "hundert") * (n > 99) + small * (n % 100 > 0)


def main(steps: int = 250) -> float:
    torch.manual_seed(0)
    numbers = (torch.randperm(999) + 1).tolist()  # the last 199 are held out
    words, digits = [german(n) for n in numbers], [" ".join(str(n)) for n in numbers]
    source, target = Subwords.of(words[:800], size=60), Subwords.of(digits[:800])
    heard, y = source.encode(words), target.encode(digits)
    x, lengths = pad_sequence([*map(torch.tensor, heard)]), torch.tensor([*map(len, heard)])  # with PAD, 0
    read = pad_sequence([torch.tensor([START, *each]) for each in y])
    said = pad_sequence([torch.tensor([*each, END]) for each in y])
    model = Seq2Seq("gru", len(source), len(target), 32, 64, bidirectional=True, attention="after")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        rows = torch.randint(800, (64,))
        features = model(x[:, rows], read[:, rows], lengths[rows]).features
        optimiser.zero_grad()
        (model.decoder.loss(features, said[:, rows], said[:, rows] != PAD) / 64).backward()
        optimiser.step()
    start = model.encode(x[:, 800:], lengths[800:])
    written = decode(model.step, start, 199, Special(PAD, START, END), Decoding(beam=3, max_length=5))
    right = [target.decode(each.tokens) == text for each, text in zip(written, digits[800:], strict=True)]
    for word, each in zip(words[800:805], written[:5], strict=True):
        looks = [source.parts(word)[place] for place in each.attention.argmax(1)]
        print(f"{word} -> {target.decode(each.tokens)}, looked at: {', '.join(looks)}")
    print(f"unseen numbers translated without a mistake: {sum(right) / 199:.3f}")
    return sum(right) / 199


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small more threads are slower
    main()
