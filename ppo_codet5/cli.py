"""The command ``ppo-codet5``. Heavy libraries are imported by the subcommands that need them.

Exit codes: 0 done, 1 failed, 2 wrong arguments. Ctrl-C leaves a run that the same command resumes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppo_codet5 import notebooks, reproduce
from ppo_codet5.helpers.runs import RunError, user_path

if TYPE_CHECKING:
    from ppo_codet5.config import Config


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppo-codet5", description="PPO learns how to edit prompts so that a code model writes Python that passes."
    )
    parser.add_argument("--version", action="version", version=f"ppo-codet5 {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    config = command("config", _config, "write a configuration file with all settings")
    config.add_argument("--output", type=user_path, required=True, metavar="FILE", help="the JSON file to write")
    config.add_argument("--profile", metavar="NAME", help="start from a profile, e.g. laptop, instead of the published")
    config.add_argument("--force", action="store_true", help="replace a file that is there")

    train = command("train", _train, "train an agent and evaluate it; an interrupted run goes on")
    train.add_argument(
        "--config", type=user_path, metavar="FILE", help="settings as ppo-codet5 config writes them; default: published"
    )
    train.add_argument("--output-dir", type=user_path, required=True, metavar="DIR", help="the run directory")
    _add_set(train)

    evaluate = command("eval", _eval, "evaluate a trained agent")
    evaluate.add_argument("--checkpoint", type=user_path, required=True, metavar="FILE", help="final_model.pt of a run")
    text = "problems to play, default all that are scored"
    evaluate.add_argument("--episodes", type=_count_from_1, metavar="N", help=text)
    evaluate.add_argument(
        "--config", type=user_path, metavar="FILE", help="settings; default: those of the run that made the checkpoint"
    )
    evaluate.add_argument(
        "--output-dir", type=user_path, metavar="DIR", help="keep the attempts and scores in this run directory"
    )
    _add_set(evaluate)

    sub = command("reproduce", reproduce.run, "run the four notebooks headless, with all strategies, and the table")
    sub.add_argument("--profile", default="laptop", help="a profile's name, or the path of a .yaml file")
    sub.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set one parameter")
    sub.add_argument("--notebooks", nargs="+", metavar="NN", help="run these notebooks only, by number: 01 03")
    sub.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="repeat with each of these seeds")
    text = "tasks run at the same time, one per GPU"
    sub.add_argument("--jobs", type=_count_from_1, default=1, metavar="N", help=text)
    sub.add_argument("--ray", metavar="ADDRESS", help='run the tasks on a Ray cluster ("auto", host:port, "local")')
    sub.add_argument("--cell", type=int, metavar="N", help="run task N of the --dry-run list only (Slurm arrays)")
    sub.add_argument("--dry-run", action="store_true", help="number the tasks that would run, and their parameters")
    sub.add_argument("--keep", metavar="DIR", help="copy summaries, metrics, configs and figures to this folder")

    copy = command("notebooks", _notebooks, "copy the notebooks and profiles to a folder, to read and to change")
    copy.add_argument("folder", type=user_path, metavar="DIR")
    copy.add_argument("--force", action="store_true", help="replace files that are there")

    doctor = command("doctor", _doctor, "say what works on this machine, and how to mend what does not")
    doctor.add_argument("--profile", default="laptop", metavar="NAME", help="what it is to be enough for")
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    text = "change one setting, e.g. training.max_episodes=60"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)


def _count_from_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("ppo-codet5")
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


def _settings(config: Config, pairs: list[str]) -> Config:
    """``config`` with ``--set section.name=value`` applied."""
    from ppo_codet5.config import ConfigError, Section

    for name, value in notebooks.overrides(pairs).items():
        section, _, setting = name.rpartition(".")
        target = getattr(config, section, None) if section else config
        if not isinstance(target, Section):
            raise ConfigError(f"--set {name}: unknown section {section!r}")
        setattr(target, setting, value)
    return config


def _config(args: argparse.Namespace) -> int:
    from ppo_codet5.config import Config

    if Path(args.output).exists() and not args.force:
        raise RunError(f"{args.output} is there already; choose another name, or --force to replace it")
    config = Config.from_profile(args.profile) if args.profile else Config()
    print(f"wrote {config.save(args.output)}")
    return 0


class _Progress:
    """Shows the lines of a run: as they are, or on a terminal as a bar with the newest line under it."""

    def __init__(self) -> None:
        self.bar: Any = None

    def __call__(self, line: str) -> None:
        update = re.match(r"update +(\d+)/(\d+) +", line)
        if not sys.stderr.isatty():
            print(line, flush=True)
        elif update is None:
            self.close()
            print(line, file=sys.stderr)
        else:
            from tqdm import tqdm

            done, total = map(int, update.groups())
            self.bar = self.bar or tqdm(total=total, initial=done - 1, unit="update", dynamic_ncols=True)
            self.bar.update(done - self.bar.n)
            self.bar.set_postfix_str(line[update.end() :])
            if done == total:
                self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _train(args: argparse.Namespace) -> int:
    from ppo_codet5.config import Config

    config = _settings(Config.load(args.config) if args.config else Config(), args.set)
    config.to_parameters()  # settings that do not go together are found before torch is loaded
    from ppo_codet5.core import PPOCodeT5Trainer
    from ppo_codet5.helpers.results import scoring

    progress = _Progress()
    show = progress if config.log_level in ("DEBUG", "INFO") else lambda line: None
    try:
        summary = PPOCodeT5Trainer(config).train(args.output_dir, report=show)
    finally:
        progress.close()
    print(scoring.table(summary["scores"]))
    print(f"\nagent     {Path(args.output_dir) / 'final_model.pt'}\nsummary   {Path(args.output_dir) / 'summary.json'}")
    return 0


def _eval(args: argparse.Namespace) -> int:
    from ppo_codet5.config import Config, ConfigError

    checkpoint = Path(args.checkpoint)
    if not checkpoint.is_file():
        raise RunError(f"no checkpoint at {checkpoint}; ppo-codet5 train writes final_model.pt to its --output-dir")
    if args.config:
        config = Config.load(args.config)
    else:
        try:
            config = Config.from_run(checkpoint.parent)
        except ConfigError as error:
            raise RunError(f"{error}; give the settings of its training with --config") from None
    config = _settings(config, args.set)
    from ppo_codet5.core import PPOCodeT5Trainer
    from ppo_codet5.helpers.results import scoring

    trainer = PPOCodeT5Trainer(config).load(checkpoint)
    if args.episodes and args.episodes > len(trainer.scored):
        print(f"note: there are {len(trainer.scored)} problems to score, fewer than --episodes {args.episodes}")
    print(scoring.table(trainer.evaluate(args.episodes, args.output_dir)["scores"]))
    return 0


def _notebooks(args: argparse.Namespace) -> int:
    folder = Path(args.folder)
    sources = {name: notebooks.resource(name) for name in notebooks.NOTEBOOKS}
    sources |= {f"profiles/{path.name}": path for path in sorted(notebooks.resource("profiles").glob("*.yaml"))}
    there = [name for name in sources if (folder / name).exists()]
    if there and not args.force:
        raise RunError(f"{folder} has {', '.join(there)} already; choose another folder, or --force to replace them")
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
        print(folder / name)
    print(f"\nopen them with: jupyter lab {folder}")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from ppo_codet5.doctor import examine

    return examine(args.profile)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        sys.stderr.close()
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
