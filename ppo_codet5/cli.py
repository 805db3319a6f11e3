"""The command ``ppo-codet5``. Heavy libraries are imported by the subcommands that need them.

Exit codes: 0 done, 1 failed, 2 wrong arguments. Ctrl-C leaves a run that the same command resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ppo_codet5
from ppo_codet5 import grid, notebooks, reproduce
from ppo_codet5.helpers.runs import RunError, check_writable, user_path, write_atomically

if TYPE_CHECKING:
    from ppo_codet5.config import Config
    from ppo_codet5.core import PPOCodeT5Trainer

CONTROLS = ("resampling", "random")  # those of core.py, whose import takes seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppo-codet5", description="PPO learns how to edit prompts so that a code model writes Python that passes."
    )
    parser.add_argument("--version", action="version", version=f"ppo-codet5 {ppo_codet5.__version__}")
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
    start = train.add_mutually_exclusive_group()
    text = "settings as ppo-codet5 config writes them; default: published"
    start.add_argument("--config", type=user_path, metavar="FILE", help=text)
    start.add_argument("--profile", metavar="NAME", help="the settings of a profile, e.g. laptop")
    train.add_argument("--seed", type=int, metavar="N", help="of all random numbers of the run")
    train.add_argument("--output-dir", type=user_path, required=True, metavar="DIR", help="the run directory")
    text = "also score this rule of equal budget, in DIR/NAME; may be given twice: "
    train.add_argument("--control", action="append", default=[], choices=CONTROLS, help=text + ", ".join(CONTROLS))
    train.add_argument("--plan", "--dry-run", action="store_true", help="say what would be done, and stop")
    _add_set(train)
    _add_json(train)

    evaluate = command("eval", _eval, "evaluate a trained agent")
    evaluate.add_argument(
        "--checkpoint",
        type=user_path,
        required=True,
        metavar="FILE",
        help="final_model.pt of a run, or checkpoint.pt of one under way",
    )
    text = "problems to play, default all that are scored"
    evaluate.add_argument("--episodes", type=_count_from_1, metavar="N", help=text)
    text = "the most probable action, or actions drawn with their probabilities; default: argmax"
    evaluate.add_argument("--policy", choices=("argmax", "sampled"), default="argmax", help=text)
    evaluate.add_argument(
        "--config", type=user_path, metavar="FILE", help="settings; default: those of the run that made the checkpoint"
    )
    evaluate.add_argument(
        "--output-dir", type=user_path, metavar="DIR", help="keep the attempts and scores in this run directory"
    )
    _add_set(evaluate)
    _add_json(evaluate)

    solve = command("solve", _solve, "work on tasks of one's own, with a trained agent or another strategy")
    solve.add_argument("tasks", type=user_path, metavar="TASKS", help="a .jsonl file: text and test_list in each row")
    text = "final_model.pt of a run: its agent, and its settings unless others are given"
    solve.add_argument("--checkpoint", type=user_path, metavar="FILE", help=text)
    start = solve.add_mutually_exclusive_group()
    text = "settings as ppo-codet5 config writes them; default: those of the checkpoint's run, else the laptop profile"
    start.add_argument("--config", type=user_path, metavar="FILE", help=text)
    start.add_argument("--profile", metavar="NAME", help="the settings of a profile, e.g. coder")
    text = "ppo (default; needs --checkpoint), ppo_sampled, direct, resampling, epic, reflexion, ..."
    solve.add_argument("--strategy", default="ppo", metavar="NAME", help=text)
    text = "generations a task at most; default: as in the settings"
    solve.add_argument("--budget", type=_count_from_1, metavar="N", help=text)
    text = "the run directory, with solutions.jsonl and programs; the same command goes on in it"
    solve.add_argument("--output-dir", type=user_path, required=True, metavar="DIR", help=text)
    _add_set(solve)
    _add_json(solve)

    sub = command("reproduce", reproduce.run, "run the four notebooks headless, with all strategies, and the table")
    sub.add_argument("--profile", default="laptop", help="a profile's name, or the path of a .yaml file")
    sub.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="set one parameter")
    sub.add_argument("--notebooks", nargs="+", metavar="NN", help="run these notebooks only, by number: 01 03")
    sub.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="repeat with each of these seeds")
    text = "tasks run at the same time, spread over the GPUs there are"
    sub.add_argument("--jobs", type=_count_from_1, default=1, metavar="N", help=text)
    text = "only fill the run directories, without the notebooks' other cells; the same command without it reads them"
    sub.add_argument("--fill", action="store_true", help=text)
    sub.add_argument("--ray", metavar="ADDRESS", help='run the tasks on a Ray cluster ("auto", host:port, "local")')
    sub.add_argument("--cell", type=int, metavar="N", help="run task N of the --dry-run list only (Slurm arrays)")
    text = "number the tasks that would run, and their parameters, and stop"
    sub.add_argument("--plan", "--dry-run", action="store_true", dest="dry_run", help=text)
    _add_json(sub, "with --plan: print it as JSON")
    sub.add_argument("--keep", metavar="DIR", help="copy summaries, metrics, configs and figures to this folder")

    copy = command("notebooks", _notebooks, "copy the notebooks and profiles to a folder, to read and to change")
    copy.add_argument("folder", type=user_path, metavar="DIR")
    copy.add_argument("--force", action="store_true", help="replace files that are there")

    doctor = command("doctor", _doctor, "say what works on this machine, and how to mend what does not")
    doctor.add_argument("--profile", default="laptop", metavar="NAME", help="what it is to be enough for")
    _add_json(doctor)
    return parser


def _add_set(parser: argparse.ArgumentParser) -> None:
    text = "change one setting, e.g. learning_rate=0.0005"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)


def _add_json(parser: argparse.ArgumentParser, text: str = "print the results as JSON, and all else on stderr") -> None:
    parser.add_argument("--json", action="store_true", help=text)


def _count_from_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _settings(config: Config, pairs: list[str]) -> Config:
    """``config`` with ``--set name=value`` applied; the form of prompt first, as it decides what code_model means."""
    for name, value in sorted(notebooks.overrides(pairs).items(), key=lambda pair: not pair[0].endswith("prompt_form")):
        config.put(name, value)
    return config


def _profile(name: str) -> Config:
    from ppo_codet5.config import Config

    notebooks.say_copies(name, [notebook for notebook in notebooks.chosen(name, None) if notebook in notebooks.FORMS])
    return Config.from_profile(name)


def _config(args: argparse.Namespace) -> int:
    from ppo_codet5.config import Config

    if args.output.is_file() and not args.force:
        raise RunError(f"{args.output} is there already; choose another name, or --force to replace it")
    config = _profile(args.profile) if args.profile else Config()
    print(f"wrote {config.save(args.output)}")
    return 0


class _Progress:
    """Shows the lines of a run: as they are, or on a terminal as a bar with the newest line under it."""

    def __init__(self) -> None:
        self.bar: Any = None

    def start(self, updates: int) -> None:
        """A bar at 0, as the first update takes longest."""
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=updates, unit="update", dynamic_ncols=True)

    def __call__(self, line: str) -> None:
        update = re.match(r"update +(\d+)/(\d+) +", line)
        if not sys.stderr.isatty():
            print(line, flush=True)
        elif update is None:
            self.close()
            print(line, file=sys.stderr)
        elif self.bar is not None:
            done, total = map(int, update.groups())
            if self.bar.n == 0:
                self.bar.initial = self.bar.n = done - 1  # a run that goes on: of an earlier start, no measure of speed
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

    config = _profile(args.profile) if args.profile else Config.load(args.config) if args.config else Config()
    _settings(config, args.set)
    if args.seed is not None:
        config.seed = args.seed
    values = vars(config.to_parameters())
    grid.check_inputs([values])
    if args.plan:
        to_fetch = reproduce.to_fetch([values])
        print(_plan(values, args.output_dir, args.control, to_fetch), flush=True)
        if to_fetch:  # nothing is fetched for a plan
            return 0
    progress = _Progress()
    show = progress if config.log_level in ("DEBUG", "INFO") else lambda line: None
    trainer = _trainer(config, show)
    from ppo_codet5.helpers.results import scoring
    from ppo_codet5.helpers.runs import finished

    runs = {"ppo": args.output_dir} | {name: args.output_dir / name for name in args.control}
    done = {name for name, folder in runs.items() if finished(folder, trainer.identity(name, trainer.scored))}
    to_do = [name for name in runs if name not in done]
    if args.plan:
        if to_do:
            _load(trainer, show)
            print(_minutes(trainer, to_do))
        return 0
    if to_do:
        check_writable(args.output_dir)
    try:
        _load(trainer, show)
        if "ppo" not in done:
            show(f"training: {config.training.max_episodes} episodes, on {len(trainer.problems['train'])} problems")
            if show is progress:  # somebody reads it: it takes some seconds
                show(_minutes(trainer, to_do))
            progress.start(config.training.max_episodes // config.training.episodes_per_update)
        scores = trainer.train(args.output_dir, report=show)["scores"]
        for name in args.control:
            scores |= trainer.control(name, runs[name], report=show)["scores"]
    finally:
        progress.close()
    files = {"agent": args.output_dir / "final_model.pt", "summary": args.output_dir / "summary.json"}
    if args.json:
        print(json.dumps({"scores": scores} | files, default=str, indent=2), file=args.out)
        return 0
    print(scoring.table(scores), end="\n\n")
    print(*(f"{name:9s} {path}" for name, path in files.items()), sep="\n")
    if args.control:
        print(f"compared  ppo-codet5 reproduce --notebooks 04 -p runs={args.output_dir} -p run_dir={args.output_dir}")
    else:
        print("note      an agent alone says nothing: give --control resampling too, a rule that spends as much")
    return 0


def _minutes(trainer: PPOCodeT5Trainer, to_do: list[str]) -> str:
    """What is still to do, with the minutes that this machine may be expected to take; it asks the models a little."""
    from ppo_codet5.core import agent_plan, probe

    some = trainer.problems["train"][: min(32, trainer.config.num_envs)]
    return agent_plan(trainer, to_do, probe(trainer.config, trainer.parts, some))


def _plan(values: dict[str, Any], folder: Path, controls: list[str], to_fetch: list[str]) -> str:
    """What training with these parameters would do, all but its minutes."""
    from ppo_codet5.helpers.problems import load_problems

    train, *_, score = (len(load_problems(*source)) for source in grid.problem_sources(values))
    updates, budget = values["max_episodes"] // values["episodes_per_update"], values["max_steps"]
    ways = ["ppo", "ppo_sampled", *controls]
    states = {"summary.json": "complete and read", "checkpoint.pt": "goes on from its checkpoint"}
    state = next(
        (f"if of these settings, {words}" for name, words in states.items() if (folder / name).exists()), "new"
    )
    lines = {
        "models": f"{values['code_model']} writes, {values['rewriter_model']} rewrites",
        "problems": f"{train} to train on, {score} to score; visible asserts: {values['visible_tests']}",
        "training": f"{updates} updates of {values['episodes_per_update']} episodes, at most {budget} generations each: "
        f"{values['max_episodes'] * budget}",
        "scoring": f"{', '.join(ways)}, at most {budget} generations a problem: {len(ways) * score * budget}",
        "to fetch": reproduce.words(to_fetch),
        "directory": f"{folder}: {state}",
        "minutes": "once all is fetched, measured and printed before training"
        if to_fetch
        else "of all from its start, as the models do on this machine:",
    }
    return "\n".join(f"{name:9s} {text}" for name, text in lines.items())


def _trainer(config: Config, show: Callable[[str], None]) -> PPOCodeT5Trainer:
    """A trainer, once all that the settings name has been looked for; nothing is written or loaded yet."""
    _check_place(vars(config.to_parameters()), show)
    from ppo_codet5.core import PPOCodeT5Trainer

    return PPOCodeT5Trainer(config)


def _check_place(values: dict[str, Any], show: Callable[[str], None]) -> None:
    """What this machine must have for these parameters, before PyTorch is imported, which is said."""
    if values["generation_cache"] is not None:
        check_writable(values["generation_cache"])
    grid.check_device([values])
    show("loading PyTorch")


def _fetch(values: dict[str, Any], show: Callable[[str], None]) -> None:
    """Fetch the models, and say that they are loaded next."""
    reproduce.fetch([values])
    show(f"loading {' and '.join(dict.fromkeys((values['code_model'], values['rewriter_model'])))}")


def _load(trainer: PPOCodeT5Trainer, show: Callable[[str], None]) -> None:
    """Fetch and load the models, and say so before."""
    _fetch(vars(trainer.config), show)
    assert trainer.parts


def _there(checkpoint: Path) -> Path:
    if not checkpoint.is_file():
        raise RunError(f"no checkpoint at {checkpoint}; ppo-codet5 train writes final_model.pt to its --output-dir")
    return checkpoint


def _eval(args: argparse.Namespace) -> int:
    from ppo_codet5.config import Config, ConfigError

    checkpoint = _there(args.checkpoint)
    if args.config:
        config = Config.load(args.config)
    else:
        try:
            config = Config.from_run(checkpoint.parent)
        except ConfigError as error:
            raise RunError(f"{error}; give the settings of its training with --config") from None
    _check_fits(vars(_settings(config, args.set).to_parameters()), checkpoint)
    if args.output_dir:
        check_writable(args.output_dir)
    grid.check_inputs([vars(config.to_parameters())])
    trainer = _trainer(config, print)
    from ppo_codet5.helpers.results import scoring

    _load(trainer, print)
    trainer.load(checkpoint)
    if checkpoint.name == "checkpoint.pt":
        print(f"note: the agent as it was at the last checkpoint of {checkpoint.parent}")
    if args.episodes and args.episodes > len(trainer.scored):
        print(f"note: there are {len(trainer.scored)} problems to score, fewer than --episodes {args.episodes}")
    strategy = "ppo" if args.policy == "argmax" else "ppo_sampled"
    scores = trainer.evaluate(args.episodes, args.output_dir, strategy=strategy)["scores"]
    if args.json:
        print(json.dumps({"scores": scores}, indent=2), file=args.out)
    else:
        print(scoring.table(scores))
    return 0


def _solve(args: argparse.Namespace) -> int:
    from ppo_codet5.config import Config
    from ppo_codet5.helpers.problems import load_tasks

    grid.check_strategy(args.strategy, args.checkpoint)
    tasks, more = load_tasks(args.tasks), {}
    if args.checkpoint and not args.checkpoint.is_file():
        raise RunError(
            f"no checkpoint at {args.checkpoint}; ppo-codet5 train writes final_model.pt to its --output-dir"
        )
    if args.config:
        config = Config.load(args.config)
    elif args.checkpoint and not args.profile:
        config = Config.from_run(args.checkpoint.parent)
    else:
        config, more = _profile(args.profile or "laptop"), notebooks.load_profile(args.profile or "laptop")
    if args.budget:
        config.put("max_steps", args.budget)
    of_03 = notebooks.cell_of(notebooks.resource("03_baselines.ipynb"))["__annotations__"].keys()
    of_03 -= vars(config.to_parameters()).keys()  # what only strategies other than the agent have
    pairs = {pair: pair.partition("=")[0] in of_03 for pair in args.set}
    more |= notebooks.overrides([pair for pair, theirs in pairs.items() if theirs])
    values = more | vars(_settings(config, [pair for pair, theirs in pairs.items() if not theirs]).to_parameters())
    _check_fits(values, args.checkpoint)
    grid.check_models([values])
    grid.check_programs(values["preamble"], {})
    check_writable(args.output_dir)
    _check_place(values, print)
    from ppo_codet5 import baselines, core, solving

    flat = solving.parameters(types.SimpleNamespace(**values))
    if args.strategy in baselines.TUNED:
        baselines.tuning_problems(flat)  # told now if they are not to be had
    _fetch(values, print)
    parts = core.load_parts(flat)
    agent = core.load_agent(flat, parts, args.checkpoint) if args.checkpoint else None
    budget = baselines.with_own(flat, args.strategy).max_steps
    print(f"{args.strategy} on {len(tasks)} tasks, at most {budget} generation{'s' * (budget > 1)} each")
    solutions = solving.solve(flat, tasks, args.strategy, agent, parts, args.output_dir, print)
    if args.json:
        print(json.dumps(solutions, indent=2), file=args.out)
        return 0
    print(solving.table(solutions), end="\n\n")
    print(f"programs  {args.output_dir / 'programs'}", f"all       {args.output_dir / 'solutions.jsonl'}", sep="\n")
    return 0


def _check_fits(values: dict[str, Any], checkpoint: Path | None) -> None:
    """Raise RunError if the settings are not of the kind of agent that the checkpoint's run trained."""
    from ppo_codet5.config import Config, ConfigError

    try:
        trained = vars(Config.from_run(checkpoint.parent).to_parameters()) if checkpoint else values
    except ConfigError:  # a checkpoint without its run directory: its shape is all that can be looked at
        return
    for name in ("actions", "observation", "embedder", "hidden_size"):
        if trained[name] != values[name]:
            raise RunError(
                f"the agent in {checkpoint} was trained with {name} = {trained[name]!r}, and the settings say "
                f"{values[name]!r}; give --checkpoint without settings of another run, or add --set {name}={trained[name]}"
            )


def _notebooks(args: argparse.Namespace) -> int:
    folder = Path(args.folder)
    sources = {name: notebooks.shipped(name) for name in notebooks.NOTEBOOKS}
    sources |= {f"profiles/{path.name}": path for path in sorted(notebooks.shipped("profiles").glob("*.yaml"))}
    there = [name for name in sources if (folder / name).exists()]
    if there and not args.force:
        raise RunError(f"{folder} has {', '.join(there)} already; choose another folder, or --force to replace them")
    check_writable(folder)
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # The committed results that notebook 04 reads are not there: its copy reads what those beside it leave.
        text = source.read_bytes().replace(b'runs: str = \\"results/laptop\\"', b'runs: str = \\"runs\\"')
        write_atomically(folder / name, text)
        print(folder / name)
    (folder / "runs").mkdir(exist_ok=True)
    print(f"\nopen them with: jupyter lab {folder}\nin {folder}, ppo-codet5 uses these copies in place of its own")
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from ppo_codet5.doctor import examine

    return examine(args.profile, args.json)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.command == "reproduce" and args.json and not args.dry_run:
        parser.error("--json goes with --plan: the summaries of a run are files")
    args.out = sys.stdout
    quiet = getattr(args, "json", False) and args.command in ("train", "eval", "solve")
    try:
        with contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext():
            return args.run(args)
    except KeyboardInterrupt:
        keeps = args.command == "reproduce" or getattr(args, "output_dir", None)
        print("interrupted" + "; the same command goes on from the last checkpoint" * bool(keeps), file=sys.stderr)
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        sys.stderr.close()
    except (RuntimeError, ValueError, OSError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        print(f"error: {error}" + "; make room, and give the same command again" * full, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
