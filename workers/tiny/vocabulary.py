"""The tiny model's own byte-level vocabulary, learned from our word list. Knows words, but not the model.

A CLIP tokenizer needs `vocab.json` and `merges.txt`. Ours start from all 256 bytes, so that any text in any script can
be encoded, and add merges learned from the words below. Source: byte-pair encoding, Sennrich et al., Neural Machine
Translation of Rare Words with Subword Units (2016), https://arxiv.org/abs/1508.07909.
"""

from collections import Counter
from functools import cache
from itertools import pairwise

MERGES = 1000
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

# The words of the drawn scenes; each must become a single token.
SCENE_WORDS = "red green blue yellow circle square triangle star shape"

WORDS = """
person man woman child baby boy girl people human face head hair eye nose mouth ear hand arm leg foot finger
body shoulder skin beard hat cap helmet shirt jacket coat dress skirt trousers jeans shoe boot sock glove scarf
tie belt glasses watch ring necklace bag backpack handbag suitcase umbrella portrait crowd player rider driver
worker runner astronaut soldier doctor nurse teacher student dancer singer cook chef
cat dog horse cow sheep goat pig chicken duck goose bird eagle owl parrot pigeon fish shark whale dolphin seal
bear lion tiger leopard elephant giraffe zebra monkey rabbit mouse rat squirrel fox wolf deer camel kangaroo
panda snake lizard turtle frog butterfly bee spider ant fly insect feather tail wing paw
car truck bus van taxi train tram plane airplane helicopter rocket boat ship ferry canoe bicycle bike motorcycle
scooter skateboard tractor wheel tyre engine door window mirror seat light lamp traffic sign road street bridge
tunnel lane crossing pavement track rail station airport harbour parking garage
house building tower castle church temple roof wall fence gate stairs chimney balcony column floor ceiling room
kitchen bathroom bedroom office shop market school hospital hotel factory farm barn tent garden park bench
table chair sofa couch bed desk shelf cupboard drawer curtain carpet pillow blanket towel clock picture frame
painting vase candle basket box bottle cup mug glass bowl plate dish fork knife spoon pan pot kettle oven stove
fridge freezer toaster microwave sink tap bath toilet shower soap brush comb toothbrush
computer laptop keyboard screen monitor television phone camera tablet printer speaker radio remote cable plug
battery robot machine tool hammer saw drill screw nail ladder rope chain bucket shovel broom
book newspaper magazine paper letter envelope pen pencil crayon notebook map card ticket coin money flag
ball football basketball racket bat kite frisbee ski snowboard surfboard toy doll teddy puzzle balloon game
guitar piano violin drum trumpet flute microphone
apple banana orange lemon lime pear peach plum cherry grape strawberry raspberry melon pineapple mango coconut
tomato potato carrot onion garlic pepper cucumber lettuce cabbage broccoli bean pea corn mushroom pumpkin salad
bread cake pie pizza sandwich burger pasta noodle rice soup cheese butter egg meat sausage bacon ham steak
chocolate cookie sweet ice cream sugar salt honey jam coffee tea milk water juice beer wine
tree bush plant flower rose tulip daisy leaf branch trunk root grass moss forest wood hill mountain rock stone
sand soil beach sea ocean lake river stream waterfall island desert field path sky cloud sun moon planet rain
snow storm fire smoke shadow reflection nebula galaxy
black white grey gray brown pink purple violet cyan magenta golden silver dark bright pale
oval rectangle cross arrow heart diamond line dot ring cube sphere cone cylinder hexagon pentagon polygon
big small large little long short tall wide narrow round flat old young new open closed wet dry empty full
left right top bottom front back middle near far one two three four five six seven eight nine ten
wooden metal plastic glass leather paper stone cotton striped spotted plain shiny broken
standing sitting walking running jumping swimming flying sleeping eating drinking holding wearing riding reading
the a an of on in with and or under over behind beside between without
visual object thing something background foreground
"""


@cache
def byte_symbols() -> tuple[str, ...]:
    """Return the printable symbol of each of the 256 bytes, in byte order.

    It is the table of GPT-2: https://github.com/openai/gpt-2/blob/master/src/encoder.py, `bytes_to_unicode`.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(spare)) for byte in range(256))


@cache
def merges() -> tuple[tuple[str, str], ...]:
    """Learn up to `MERGES` byte-pair merges, the most frequent pair first. Ties are broken by spelling, so the result
    is always the same."""
    counts = Counter(WORDS.split())
    counts.update(dict.fromkeys(SCENE_WORDS.split(), 1000))
    words = {(*word[:-1], word[-1] + WORD_END): count for word, count in counts.items()}
    learned: list[tuple[str, str]] = []
    while len(learned) < MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        words = {_merge(symbols, best): count for symbols, count in words.items()}
    return tuple(learned)


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return tuple(joined)


@cache
def vocabulary() -> dict[str, int]:
    """Return token -> id in CLIP's order: bytes, bytes that end a word, merges, start, end."""
    single = byte_symbols()
    tokens = [*single, *(symbol + WORD_END for symbol in single), *(a + b for a, b in merges()), START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}
