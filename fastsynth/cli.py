"""The command line: one verb per stage. Verbs only read arguments, call a recipe, and print what it returns.

Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration, 3 ran but a check failed, 130 stopped; the same
command continues.
Nothing heavy is imported before a verb runs, so that --help answers at once.
"""

import errno
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastsynth import __version__
from fastsynth.cli_data import data_app
from fastsynth.cli_edit import InOrder, edit
from fastsynth.cli_generators import import_app, photo_app
from fastsynth.cli_options import (
    CHECK_FAILED,
    AsJson,
    ConfigPath,
    Device,
    DryRun,
    FollowLinks,
    Overrides,
    Seed,
    counts,
    open_run,
    print_result,
    read_any_config,
    read_config,
)
from fastsynth.cli_segment import segment_app
from fastsynth.cli_tables import bench, evaluate
from fastsynth.data.manifest import MANIFEST, Shard, shard_files
from fastsynth.errors import CheckFailedError, one_line_warning, shorten_words
from fastsynth.processes import process_index
from fastsynth.stopping import interrupt_on_sigterm

if TYPE_CHECKING:
    from fastsynth.run import Run

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

DISK_FULL = "free some space and run the same command again"
ADVICE = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), DISK_FULL)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="New defect images with pixel-exact masks from normal images and a few annotated defects.",
)
config_app = typer.Typer(no_args_is_help=True, help="Show and check configurations.")
subs = {"data": data_app, "segment": segment_app, "photo": photo_app, "import": import_app, "config": config_app}
for name, sub in subs.items():
    app.add_typer(sub, name=name)
app.command(cls=InOrder)(edit)
app.command()(evaluate)
app.command()(bench)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        typer.echo(f"fastsynth {__version__}")
        raise typer.Exit


@app.command()
def doctor(
    data: Annotated[Path | None, typer.Option(help="Data set to look through as well.")] = None,
    output: Annotated[Path, typer.Option(help="Where runs will be written.")] = Path("runs"),
    follow_links: FollowLinks = False,
    as_json: AsJson = False,
) -> None:
    """Check the machine, the installation and the data before hours are spent."""
    from fastsynth.doctor import diagnose

    findings = diagnose(data, output, follow_links=follow_links)
    lines = [f"{finding.level:5} {finding.topic}: {finding.message}" for finding in findings]
    print_result([vars(finding) for finding in findings], "\n".join(lines), as_json)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(CHECK_FAILED)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the demo's data and run are written.")] = Path("runs/demo"),
    overrides: Overrides = [],  # noqa: B006 (typer copies it)
) -> None:
    """The main job on an embedded data set: data, training, samples, segmenters, verdict, report."""
    from fastsynth.recipes.whole import make_demo_data, run_all
    from fastsynth.run import Run

    config = read_config(
        preset("demo"), [f"output={output}", f"data.root={output.parent / (output.name + '_data')}", *overrides]
    )
    make_demo_data(config)
    _finish(run_all(Run(config)))


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Everything, from data to report; finished stages are skipped, interrupted ones resumed."""
    opened = open_run(config, overrides, seed, device)
    if dry_run:
        _describe(opened)
        return
    from fastsynth.recipes.whole import run_all

    _finish(run_all(opened))


@app.command()
def masks(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    seed: Seed = None,
    count: Annotated[int, typer.Option(min=1, help="Layouts to draw.")] = 40,
    output: Annotated[
        Path | None, typer.Option(help="Picture to write; default: sheets/layouts.png of the run.")
    ] = None,
) -> None:
    """Draw layouts as a contact sheet: a dry run in seconds, before any training."""
    opened = open_run(config, overrides, seed, None)
    from fastsynth.recipes.layouts import draw_masks

    typer.echo(draw_masks(opened, count=count, path=output or opened.folder / "sheets" / "layouts.png"))


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    seed: Seed = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Train the renderer; continues from the last checkpoint."""
    opened = open_run(config, overrides, seed, device)
    if dry_run:
        _describe(opened)
        return
    from fastsynth.recipes.layouts import require_sound_data
    from fastsynth.recipes.rendering import train_renderer

    require_sound_data(opened)
    folder = train_renderer(opened)
    typer.echo(
        folder if folder.is_dir() else f"{opened.config.renderer.kind}: nothing to train; run `fastsynth generate`"
    )


@app.command()
def generate(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    seed: Seed = None,
    device: Device = None,
    shard: Annotated[str | None, typer.Option(help="i/n: only part i of n, for job arrays; 1/4 to 4/4.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Fill the store of synthetic samples; fills the gaps of an interrupted one."""
    part = None if shard is None else Shard.parse(shard)
    opened = open_run(config, overrides, seed, device)
    if dry_run:
        _describe(opened)
        return
    from fastsynth.recipes.rendering import draw_sheet, generate

    typer.echo(generate(opened, shard=part))
    merged = (opened.store_folder / MANIFEST).is_file() and not shard_files(opened.store_folder)
    if process_index() == 0 and merged:  # else other shards are still at work
        typer.echo(draw_sheet(opened))


@app.command()
def audit(
    store: Annotated[Path, typer.Argument(help="Folder of the store, e.g. runs/x/synthetic.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set it was made from.")],
    split: Annotated[Path | None, typer.Option(help="split.json, to look for test images too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Re-check a store from its files alone: pixels, hashes, sizes, masks; exits with 3 if one is broken."""
    from fastsynth.data.split import Split
    from fastsynth.quality.audit import audit as audit_store

    report = audit_store(store, data_root=data, split=None if split is None else Split.read(split))
    share = "" if report.median_changed_share is None else f", median changed share {report.median_changed_share:.0%}"
    summary = f"{report.samples} samples, {len(report.problems)} problems{share}"
    print_result(vars(report), "\n".join([*report.problems, summary]), as_json)
    if report.problems:
        raise typer.Exit(CHECK_FAILED)


@app.command("filter")
def filter_samples(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be refused.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge the stored samples by the rules of generate.gate; what they refuse moves to rejected/, with the reason.

    Afterwards `generate -s generate.gate.enabled=true`, with the same rules, draws the refused ones again.
    """
    opened = open_run(config, overrides, None, None)
    from fastsynth.recipes.filtering import filter_store

    found = filter_store(opened, dry_run=dry_run)
    lines = [f"{reason}: {count}" for reason, count in found["reasons"].items()]
    print_result(found, "\n".join([*lines, f"{found['kept']} of {found['samples']} samples kept"]), as_json)


@app.command()
def replay(
    config: ConfigPath,
    sample_id: Annotated[int, typer.Option("--id", min=0, help="Number of the sample.")],
    output: Annotated[Path, typer.Option(help="Picture to write.")] = Path("replay.png"),
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Make one stored sample again, from its seed; exits with 3 if its bytes differ from the stored ones."""
    opened = open_run(config, overrides, None, None)
    from fastsynth.recipes.rendering import replay_to

    same = replay_to(opened, sample_id, output)
    typer.echo(f"{output}: {'the stored bytes' if same else 'differs from the stored image'}")
    if not same:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def augment(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    seed: Seed = None,
    preview: Annotated[bool, typer.Option("--preview", help="Only write a sheet of what augmentation does.")] = False,
    copies: Annotated[int, typer.Option(min=1, help="Augmented copies of every sample.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Sheet or folder to write.")] = None,
) -> None:
    """Show the augmentation as a sheet, or write the whole store augmented (training augments on the fly)."""
    opened = open_run(config, overrides, seed, None)
    from fastsynth.recipes.augmenting import augment_store, preview_augmentation

    if preview:
        typer.echo(preview_augmentation(opened, output or opened.folder / "sheets" / "augmentation.png"))
    else:
        typer.echo(augment_store(opened, output or opened.folder / "augmented", copies=copies))


@app.command()
def compare(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """The verdict: does the synthetic data help the segmenter? Trains whatever arm is missing."""
    opened = open_run(config, overrides, None, device)
    from fastsynth.recipes.judging import compare

    found = compare(opened)
    print_result(found, str(found["verdict"]), as_json)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its YAML file.", show_default=False)],
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write report.html from what a run folder holds so far."""
    from fastsynth.report.html import write_report

    typer.echo(write_report(read_config(run, overrides).output if run.is_file() else run))


@app.command()
def card(
    run: Annotated[Path, typer.Argument(help="YAML file of the run, or its folder.", show_default=False)],
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Write the data-set card of a store, README.md: what it holds, how it was made, what was rejected, its limits."""
    from fastsynth.recipes.carding import write_card

    typer.echo(write_card(run, overrides))


@config_app.command("show")
def config_show(config: ConfigPath, overrides: Overrides = []) -> None:  # noqa: B006
    """Print the complete configuration of a run, a table or a photo renderer, defaults included."""
    from fastsynth.config import dump_config

    typer.echo(dump_config(read_any_config(config, overrides)), nl=False)


@config_app.command("check")
def config_check(config: ConfigPath, overrides: Overrides = []) -> None:  # noqa: B006
    """Say whether the configuration of a run, a table or a photo renderer is valid.

    What libraries know by name is looked up when it is used.
    """
    read_any_config(config, overrides)
    typer.echo(f"{config}: fine")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a run's configuration, with a sentence on every key."""
    from fastsynth.run_config import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=2))


def preset(name: str) -> Path:
    """A configuration that ships with the package, by name."""
    inside = Path(__file__).parent / "configs"
    folder = inside if inside.is_dir() else Path(__file__).parent.parent / "configs"  # an editable install
    return folder / f"{name}.yaml"


def main() -> None:
    """Entry point: a user's mistake is one line on stderr, never a traceback."""
    warnings.formatwarning = one_line_warning
    interrupt_on_sigterm()
    if process_index() > 0:  # one of several launched processes tells the results
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        app()
    except SystemExit as stopped:
        if stopped.code == INTERRUPTED:  # typer has turned Ctrl-C into this
            _complain("stopped; run the same command again to continue")
        raise
    except CheckFailedError as error:
        _fail(str(error), CHECK_FAILED)
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        _fail(_message(error), WRONG_USAGE)
    except (OSError, ImportError, MemoryError) as error:
        _fail(_message(error), FAILED)


def _message(error: Exception) -> str:
    """One line. What the operating system says gets the file's name and what to do."""
    if isinstance(error, OSError) and error.strerror:
        advice = ADVICE.get(error.errno or 0, "check the path and its permissions")
        return f"{error.filename or 'writing a file'}: {error.strerror}; {advice}"
    return str(error) or type(error).__name__


def _fail(message: str, code: int) -> None:
    _complain(message)
    sys.exit(code)


def _complain(message: str) -> None:
    from tqdm import tqdm

    tqdm.write(
        f"fastsynth: {shorten_words(message)}", file=sys.stderr
    )  # on a line of its own, not at the end of an open bar


def _describe(opened: "Run") -> None:
    """What --dry-run prints."""
    from fastsynth.run_config import renderer_name, singles

    config, split = opened.config, opened.planned_split()
    typer.echo(f"data: {counts(split)}")
    trainings = [renderer.training for renderer in singles(config.renderer) if hasattr(renderer, "training")]
    steps = " + ".join(str(training.max_train_steps) for training in trainings)
    typer.echo(f"train: {steps} steps" if steps else "train: nothing")
    typer.echo(
        f"generate: {config.generate.count} samples by {renderer_name(config.renderer)} in {opened.store_folder}"
    )
    arms = 1 + len(config.compare.ratios) + config.compare.synthetic_only
    typer.echo(
        f"compare: {arms} arms of {len(config.compare.seeds)} seeds, {config.segment.iterations} iterations each"
    )


def _finish(report_path: Path) -> None:
    metrics = json.loads((report_path.parent / "metrics.json").read_text())
    typer.echo(report_path)
    typer.echo(metrics["verdict"])
