"""The target model's optimiser against recorded figures and against the slow reference."""

from __future__ import annotations

import json

import fill
import numpy as np
import pytest
import torch

from vis_projects.frtm.gauss_newton import GaussNewton
from vis_projects.frtm.pixel_weights import pixel_weights
from vis_projects.frtm.sample_memory import SampleMemory, SampleWeights
from vis_projects.frtm.score_stencil import ScoreStencil
from vis_projects.frtm.target_model import FilterProblem, JointProblem, TargetModel, Targets

VARIANTS = ["infer", "train", "ytvos", "stable_pr", "stable_fr"]
DTYPES = {"f32": torch.float32, "f64": torch.float64}


def relative(a, b) -> float:
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


class Case:
    """One variant of the recorded optimiser runs, set up in one number format."""

    def __init__(self, golden, variant: str, precision: str) -> None:
        self.data = np.load(golden("frtm/optimizer.npz"))
        self.variant, self.precision = variant, precision
        dtype = self.dtype = DTYPES[precision]
        setting = json.loads(str(self.data[f"{variant}/setting"]))
        shape = tuple(self.data["y_shape"])
        y = np.unpackbits(self.data["y"])[: np.prod(shape)].reshape(shape)
        self.y = torch.from_numpy(y[:, 0]).to(dtype)
        self.x = torch.from_numpy(self.data["x"]).to(dtype)[:, None]
        self.g = torch.from_numpy(self.data["sample_weights"]).to(dtype)
        self.f, self.m = setting["filter_reg"], setting["precond"]
        self.cg_variant = "fletcher_reeves" if setting["fletcher_reeves"] else "polak_ribiere"
        self.forget = setting["direction_forget_factor"]
        self.q = pixel_weights(self.y) if setting["pixel_weighting"] else torch.ones_like(self.y)
        self.model = TargetModel.from_state(
            *(
                torch.from_numpy(
                    fill.values(f"{name}.weight", self.recorded(f"unit_b_{name}").shape)
                ).to(dtype)
                for name in ("project", "filter")
            )
        )
        self.stencil = ScoreStencil(shape[-2:], self.x.shape[-2:], dtype=dtype)

    def targets(self, g: torch.Tensor) -> Targets:
        g = g[:, None, None]
        return Targets(
            self.stencil.couplings(g * self.q)[:, None],
            self.stencil.downsum(g * self.q * self.y)[:, None],
            (g * self.q * self.y**2).sum()[None],
        )

    def joint(self) -> JointProblem:
        return JointProblem(self.model, self.x, self.targets(self.g), self.f)

    def optimizer(self, layers: slice, log=None) -> GaussNewton:
        return GaussNewton(self.m[layers], variant=self.cg_variant, forget=self.forget, log=log)

    def recorded(self, name: str, precision: str | None = None) -> np.ndarray:
        return self.data[f"{self.variant}/{name}/{precision or self.precision}"]

    def run_joint(self):
        """Return the problem after all iterations, its filters and losses on the way."""
        problem, products = self.joint(), []
        optimizer = self.optimizer(slice(None), lambda v: products.append(float(v[0])))
        losses, states = [problem.loss()[:, 0]], []
        for steps in self.data[f"{self.variant}/init_iters"]:
            optimizer.run(problem, [int(steps)])
            losses.append(problem.loss()[:, 0])
            states.append(problem.model.state())
        return problem, states, torch.stack(losses), products

    def run_updates(self, joint: JointProblem):
        """The filter-only calls; sample weights roll by one after each."""
        projected = joint.model.project_features(self.x)
        weight, g = joint.model.filter, self.g
        optimizer = self.optimizer(slice(1, None))
        problem = FilterProblem(weight, projected, self.targets(g), self.f[1])
        losses, filters = [problem.loss()[:, 0]], []
        for steps in self.data[f"{self.variant}/update_iters"]:
            problem = FilterProblem(weight, projected, self.targets(g), self.f[1])
            optimizer.run(problem, [int(steps)])
            weight = problem.weight
            losses.append(problem.loss()[:, 0])
            filters.append(weight.mT.reshape(self.recorded("unit_b_filter").shape))
            g = g.roll(1)
        return problem, filters, torch.stack(losses)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_unit_products(golden, variant, precision):
    case = Case(golden, variant, precision)
    problem = case.joint()
    b = problem.descent()
    product = problem.product(tuple(x / m for x, m in zip(b, case.m)))
    b, product = (TargetModel(*v).state() for v in (b, product))
    tolerance = 1e-5 if precision == "f32" else 1e-12
    for name in ("project", "filter"):
        assert relative(b[f"{name}.weight"], case.recorded(f"unit_b_{name}")) < tolerance
        assert relative(product[f"{name}.weight"], case.recorded(f"unit_Ap_{name}")) < tolerance


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("variant", ["stable_pr", "stable_fr"])
def test_well_conditioned_runs(golden, variant, precision):
    case = Case(golden, variant, precision)
    problem, states, losses, products = case.run_joint()
    tolerance = 1e-3 if precision == "f32" else 1e-9
    for name in ("project", "filter"):
        got = torch.stack([state[f"{name}.weight"] for state in states])
        assert relative(got, case.recorded(name)) < tolerance
    assert relative(losses, case.recorded("loss")) < tolerance
    assert relative(products, case.recorded("ip")) < tolerance
    assert relative(problem.scores(), case.recorded("scores")) < tolerance
    problem, filters, losses = case.run_updates(problem)
    assert relative(torch.stack(filters), case.recorded("upd_filter")) < tolerance
    assert relative(losses, case.recorded("upd_loss")) < tolerance
    assert relative(problem.scores(), case.recorded("upd_scores")) < tolerance


def chaos(golden, variant: str, draws: int = 4) -> list[np.ndarray]:
    """How far float64 losses move when the features do by float32's rounding (1e-7).

    Relative, per iteration, the largest of some draws; joint phase, then updates.
    """
    spread = []
    for draw in range(draws):
        case = Case(golden, variant, "f64")
        noise = torch.randn(case.x.shape, generator=torch.Generator().manual_seed(draw)).double()
        case.x = case.x * (1 + 1e-7 * noise)
        problem, _, losses, _ = case.run_joint()
        *_, update_losses = case.run_updates(problem)
        spread.append(
            [
                np.abs(got.sum(1).numpy() / case.recorded(name).sum(1) - 1)
                for got, name in ((losses, "loss"), (update_losses, "upd_loss"))
            ]
        )
    return [np.max(each, 0) for each in zip(*spread)]


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("variant", ["infer", "train", "ytvos"])
def test_real_settings(golden, variant, precision):
    """Filters are chaotic here: first iteration in float64, then losses and scores only.

    Losses in float32 may be off by 20 % (the authors' own are by 14 %), or by twice what rounding
    of the features alone does to the float64 losses of this very recording, if that is more.
    """
    case = Case(golden, variant, precision)
    problem, states, losses, _ = case.run_joint()
    if precision == "f64":
        for name in ("project", "filter"):
            assert relative(states[0][f"{name}.weight"], case.recorded(name)[0]) < 1e-6
    scores = problem.scores()
    problem, _, update_losses = case.run_updates(problem)
    if precision == "f64":
        slack = [0.01, 0.01]
    else:
        slack = [np.maximum(0.2, 2 * moved) for moved in chaos(golden, variant)]
    for got, name, limit in zip((losses, update_losses), ("loss", "upd_loss"), slack):
        wanted = case.recorded(name, "f64").sum(1)
        assert (np.abs(got.sum(1).double().numpy() / wanted - 1) < limit).all()
    for got, name in ((scores, "scores"), (problem.scores(), "upd_scores")):
        wanted = case.recorded(name, "f64").ravel()
        assert np.corrcoef(got.numpy().ravel(), wanted)[0, 1] > 0.99


def test_objects_in_a_batch_do_not_touch_each_other(golden):
    case = Case(golden, "stable_pr", "f64")
    alone, *_ = case.run_joint()
    targets = case.targets(case.g)
    flipped = Targets(targets.couplings, -targets.pull, targets.energy)
    both = Targets(
        *(
            torch.cat([getattr(t, n) for t in (flipped, targets)], -1 if n == "energy" else 1)
            for n in vars(targets)
        )
    )
    model = TargetModel(case.model.project.repeat(2, 1, 1), case.model.filter.repeat(2, 1, 1))
    problem = JointProblem(model, case.x.repeat(1, 2, 1, 1, 1), both, case.f)
    case.optimizer(slice(None)).run(problem, case.data["stable_pr/init_iters"].tolist())
    assert relative(problem.model.filter[1:], alone.model.filter) < 1e-12
    assert relative(problem.model.filter[:1], alone.model.filter) > 1e-2


def test_inactive_objects_keep_filters_and_state(golden):
    case = Case(golden, "stable_pr", "f64")
    joint, *_ = case.run_joint()
    projected = joint.model.project_features(case.x)
    on, off = torch.tensor([True]), torch.tensor([False])

    def run(sequence):
        weight, optimizer = joint.model.filter, case.optimizer(slice(1, None))
        for active in sequence:
            problem = FilterProblem(weight, projected, case.targets(case.g), case.f[1])
            optimizer.run(problem, [3], active=active)
            weight = problem.weight
        return weight

    assert torch.equal(run([off]), joint.model.filter)
    assert relative(run([off, on, off, off, on]), run([on, on])) < 1e-12


def test_no_data_gives_no_change():
    """All weights zero and nothing to regularise: quotients 0 / 0 must not spread."""
    targets = Targets(torch.zeros(2, 1, 9, 4, 5), torch.zeros(2, 1, 4, 5), torch.zeros(1))
    problem = FilterProblem(torch.zeros(1, 9, 3), torch.rand(2, 1, 3, 4, 5), targets, 1e-2)
    GaussNewton([1e-2], forget=1e-35).run(problem, [5, 5])
    assert torch.equal(problem.weight, torch.zeros(1, 9, 3))


def test_unknown_variant_is_named():
    with pytest.raises(ValueError, match="polak_ribiere"):
        GaussNewton([1.0], variant="newton")


def test_pixel_weights(golden):
    data = np.load(golden("frtm/pixel_weights.npz"))
    shape = tuple(data["shape"])
    masks = np.unpackbits(data["masks"])[: np.prod(shape)].reshape(shape)
    for dtype, name, tolerance in (
        (torch.float32, "fg_bg_f32", 1e-5),
        (torch.float64, "fg_bg_f64", 1e-12),
        (torch.float32, "fg_bg_ytvos_f32", 1e-5),
    ):
        got = pixel_weights(torch.from_numpy(masks).to(dtype)).sqrt()
        assert torch.isfinite(got).all()
        for index, (foreground, background) in enumerate(data[name]):
            for value, wanted in ((1, foreground), (0, background)):
                pixels = got[index][torch.from_numpy(masks[index] == value)]
                if np.isfinite(wanted) and len(pixels):
                    assert (pixels - wanted).abs().max() < tolerance * max(1, wanted)
    (name,) = (key for key in data.files if key.startswith("full_map_index"))
    mask = masks[int(name.removeprefix("full_map_index"))]
    assert relative(pixel_weights(torch.from_numpy(mask).float()).sqrt()[0], data[name]) < 1e-5
    assert (pixel_weights(torch.ones(1, 20, 30)) == 1).all()


@pytest.mark.recorded_cases("case", "frtm/memory.npz", r"case(\d+)/setting")
@pytest.mark.parametrize("precision", DTYPES)
def test_sample_weights(golden, case, precision):
    data = np.load(golden("frtm/memory.npz"))
    capacity, samples, insertions, eta = data[f"case{case}/setting"]
    weights = SampleWeights(1, int(capacity), eta=float(eta), dtype=DTYPES[precision])
    weights.start(int(samples))
    held = np.zeros(int(capacity), int)
    held[: int(samples)] = range(-int(samples), 0)
    rows = list(data.get(f"case{case}/weights_rows", range(int(insertions) + 1)))
    tolerance = 1e-5 if precision == "f32" else 1e-12
    for step in range(int(insertions) + 1):
        if step:
            slot = int(weights.insert()[0])
            assert slot == data[f"case{case}/replaced"][step - 1]
            held[slot] = step
            assert (held != 0).sum() == data[f"case{case}/size"][step - 1]
        if step in rows:
            row = rows.index(step)
            wanted = data[f"case{case}/weights/{precision}"][row]
            assert relative(weights.values, wanted) < tolerance
            assert (held == data[f"case{case}/held"][row]).all()


def test_sample_weights_corner_cases():
    for weights in (SampleWeights(2, 4, eta=1.0), SampleWeights(2, 4)):
        if weights.eta == 1:
            weights.start(3)
        assert weights.insert().tolist() == [0, 0]
        assert weights.values.tolist() == [[1, 0, 0, 0]] * 2


def test_memory_skips_inactive_objects():
    memory = SampleMemory(2, 4, 3, (2, 2))
    sample = [torch.ones(2, *s) for s in ((3, 2, 2), (9, 2, 2), (2, 2), ())]
    memory.start(*(torch.full((2, 2, *s.shape[1:]), 5.0) for s in sample))  # K = N = 2
    memory.insert(*sample, active=torch.tensor([False, True]))
    assert (memory.features[:2, 0] == 5).all() and (memory.features[2:, 0] == 0).all()
    assert (memory.features[2, 1] == 1).all()
    assert memory.weights.values[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    features, targets = memory.samples()
    assert features.shape == (3, 2, 3, 2, 2) and targets.pull.shape == (3, 2, 2, 2)


def test_lasting_samples_keep_their_weight() -> None:
    """A given mask outlives predicted ones and keeps the annotated frame's first weight."""
    torch.manual_seed(0)
    n, k, c, size = 2, 3, 4, (3, 5)

    def sample(value: float, *lead: int):
        return (
            torch.full((*lead, c, *size), value),
            torch.full((*lead, 9, *size), value),
            torch.full((*lead, *size), value),
            torch.full(lead, value),
        )

    memory = SampleMemory(n, 5, c, size, lasting=2)
    memory.start(*sample(1.0, k, n))
    for value in range(20, 28):
        memory.insert(*sample(float(value), n))
        if value in (21, 22, 23):
            memory.insert_lasting(1, *(x[0] for x in sample(float(value + 100), 1)))
    features, targets = memory.samples()
    # Two lasting samples of object 1, the newest two; none of object 0; five others of both.
    assert features.shape == (7, n, c, *size)
    assert sorted(features[:2, 1, 0, 0, 0].tolist()) == [122.0, 123.0]
    assert memory.lasting_weights[0].tolist() == [0.0, 0.0]
    share = 2 / (k + 1)
    value = features[:, :, 0, 0, 0]
    weights = targets.pull[:, :, 0, 0] / torch.where(value > 0, value, 1)
    for row, lasting in ((0, 0), (1, 2)):
        assert abs(weights[:, row].sum() - 1) < 1e-5
        wanted = lasting * share / (1 + lasting * share)
        assert abs(weights[:2, row].sum() - wanted) < 1e-5
    memory.keep([1])
    assert memory.features.shape[1] == 1 and memory.counts == [3]
    assert sorted(memory.samples()[0][:2, 0, 0, 0, 0].tolist()) == [122.0, 123.0]
