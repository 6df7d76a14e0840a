"""The command `evaluate`: how good models are, next to models that only count, compressors, and
what others have published. Tables on stdout, JSON for programs, or one HTML page.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import fields
from itertools import chain
from typing import get_args

from shakespeare_lm.checkpoint.ensemble import find_members, model_name, read_members
from shakespeare_lm.commands.console import command, progress_bar
from shakespeare_lm.commands.exported import corpus_inputs, ngram_baselines
from shakespeare_lm.commands.model_options import add_shared
from shakespeare_lm.commands.text_files import STDIN, check_outputs, write_text
from shakespeare_lm.data.corpus import NAMED_CORPORA
from shakespeare_lm.errors import UserError
from shakespeare_lm.evaluation.baselines import PUBLISHED, Baseline, compressed, compressors
from shakespeare_lm.evaluation.copying import SampleConfig
from shakespeare_lm.evaluation.evaluation import evaluate
from shakespeare_lm.evaluation.report import report
from shakespeare_lm.evaluation.split_corpus import PartName, SplitCorpus
from shakespeare_lm.evaluation.tables import as_json, as_tables

_SAMPLES = {
    "num_samples": "texts for --copying",
    "max_new_tokens": "characters of each text for --copying",
    "temperature": "for --copying; 1 is the model's own distribution, lower values copy more",
    "seed": "for --copying",
}


# fmt: off
def _add_options(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_shared(parser, "ckpt", nargs="+", default=[None])
    add_shared(parser, "corpus", "device")
    add("--part", choices=get_args(PartName), default="val", help="of the corpus")
    add("--stride", type=int, metavar="N",
        help="how far the sliding window moves on; 1 is exact (default: an eighth of the context)")
    add("--where", action="store_true",
        help="show also where the loss is: position in the context, kind of character, place in "
        "the word, document; and the most surprising passages")
    add("--adaptive", action="store_true",
        help="show also how good the model is if it learns from what it has read, alone and with "
        "n-grams of what it has read (seven minutes for laptop); with --where, what it learned")
    add("--copying", action="store_true",
        help="show also whether the model copies: how much of the text that it makes stands in its "
        "training part, beside the same for held-out text")
    for field in fields(SampleConfig):
        add(f"--{field.name}", type=field.type, default=field.default, help=_SAMPLES[field.name])
    add("--json", metavar="FILE", help="write everything to FILE too (- for stdout, alone)")
    add("--report", metavar="FILE.html",
        help="also write everything to one HTML page; implies --where and --copying")
# fmt: on


@command(
    "evaluate",
    "Say how good models are: exact losses on a whole part of their corpus, beside models that "
    "only count, compressors, and what others have published.",
    _add_options,
)
def main(arguments: Namespace) -> int:
    """Evaluate the checkpoints, and only then open the outputs: a mistake leaves no empty file."""
    paths = [find_members([given]) for given in arguments.ckpt]
    models = [read_members(members) for members in paths]
    inputs, outputs = [*chain(*paths)], (arguments.json, arguments.report)
    for checkpoint in chain(*models):
        inputs += corpus_inputs(checkpoint, arguments.corpus)
    check_outputs({"json": arguments.json, "report": arguments.report}, *inputs)
    corpora = [[SplitCorpus(one, arguments.corpus) for one in model] for model in models]
    if any(corpus.parts != corpora[0][0].parts for corpus in chain(*corpora)):
        raise UserError(
            "these models have different texts or splits, so their losses cannot be compared: "
            "evaluate them one at a time, or all on one text with --corpus"
        )
    everything = arguments.report is not None
    samples = SampleConfig(**{name: getattr(arguments, name) for name in _SAMPLES})
    evaluations = []
    for name, model, known in zip(map(model_name, paths), models, corpora, strict=True):
        # Of an ensemble, one member that was trained on something else is worth a note.
        corpus = max(known, key=lambda corpus: corpus.difference is not None)
        with progress_bar(f"evaluating {name}") as progress:
            found = evaluate(
                model, name, corpus, arguments.part, stride=arguments.stride,
                device=arguments.device, breakdown=arguments.where or everything,
                copying=samples if arguments.copying or everything else None,
                adaptive=arguments.adaptive, progress=progress,
            )  # fmt: skip
        evaluations.append(found)
    baselines = _baselines(corpora[0][0], arguments.part)
    if arguments.json is not None:
        write_text(arguments.json, as_json(evaluations, baselines) + "\n")
    if arguments.report is not None:
        write_text(arguments.report, report(evaluations, baselines))
    if STDIN not in outputs:
        print(as_tables(evaluations, baselines))
    return 0


def _baselines(corpus: SplitCorpus, part: PartName) -> list[Baseline]:
    train, texts = corpus.parts.train, corpus.documents(part)
    baselines = ngram_baselines(train, texts)
    with progress_bar("compressing") as progress:
        for number, compressor in enumerate(compressed(train, texts), start=1):
            baselines.append(compressor)
            progress(number, len(compressors()))
    if part == "val" and corpus.is_published_split(NAMED_CORPORA["tinyshakespeare"].sha256):
        baselines += PUBLISHED
    return baselines
