"""The samplers against straight transcriptions of the papers' loops, in float64 with shared noise; resume; options."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import even, make_problem, relative_rms

import tdas_ops
from benchmarks import published
from tdas_ops import NoiseStream, Preconditioner, samplers
from tdas_ops.sde import VE, VP, Discrete, SubVP
from tests.noise_contract import white_noise

# Random masks reach further than a network would bear, which pc says; tests/unit/test_filter_check.py has its words.
pytestmark = pytest.mark.filterwarnings("ignore:M. got a 'pds' filter that takes a predictor step:RuntimeWarning")

SHAPE = (3, 2, 4, 5)


def score(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Something smooth, nonlinear, and different for every level and pixel."""
    s = level.reshape(-1, 1, 1, 1)
    return torch.tanh(x.roll(1, -1) - 1.3 * x) / (0.3 + s) - 0.1 * x


class SharedNoise:
    """Pixel noise z of one draw after the other, from the normals by an explicit DFT."""

    def __init__(self, seed: int, space: bool) -> None:
        self.stream, self.spectral, self.draw = NoiseStream(seed), not space, 0

    def __call__(self) -> torch.Tensor:
        g = torch.empty(*SHAPE[:-1], (SHAPE[-1] + 1) // 2, dtype=torch.complex64)
        torch.ops.tdas_ops.normals.reference(g, self.stream.seeds, torch.tensor([self.draw]), 0, self.spectral)
        self.draw += 1
        return white_noise(g.to(torch.complex128), SHAPE[-1], self.spectral)


def corrected(x, s, R, A, snr, alpha, z, method, per_sample, std, corrector):
    """The two correctors of Song et al.: by the snr rule, or annealed Langevin dynamics."""
    if corrector == "langevin":
        return published.langevin(x, s, R, A, snr, alpha, z, method, per_sample)
    step_size = (snr * std) ** 2 * 2 * alpha
    return published.update(x, s, R, A, step_size, math.sqrt(step_size * 2), z, method)


def transcribed_ve(x, sde, N, eps, snr, R, A, method, z, predictor, corrector_steps, per_sample, corrector):
    """Song et al.'s predictor-corrector loop for the VE SDE with the preconditioned update of PDS."""
    discrete = torch.exp(torch.linspace(math.log(sde.sigma_min), math.log(sde.sigma_max), N, dtype=torch.float64))
    for t in torch.linspace(1, eps, N, dtype=torch.float64):
        sigma_t = sde.sigma_min * (sde.sigma_max / sde.sigma_min) ** t
        told = sigma_t.expand(len(x))
        for _ in range(corrector_steps):
            s = score(x, told)
            x, x_mean = corrected(x, s, R, A, snr, 1.0, z(), method, per_sample, sigma_t, corrector)
        index = int(t * (N - 1))
        adjacent = discrete[index - 1] if index > 0 else torch.zeros((), dtype=torch.float64)
        G = torch.sqrt(discrete[index] ** 2 - adjacent**2)
        if predictor == "reverse_diffusion":
            x, x_mean = published.update(x, score(x, told), R, A, G**2, G, z(), method)
        elif predictor == "ancestral":
            std = torch.sqrt(adjacent**2 * G**2 / discrete[index] ** 2)
            x, x_mean = published.update(x, score(x, told), R, A, G**2, std, z(), method)
        elif predictor == "euler_maruyama":
            dt = -1 / N
            diffusion = sigma_t * math.sqrt(2 * (math.log(sde.sigma_max) - math.log(sde.sigma_min)))
            drift = -(diffusion**2) * score(x, told)
            x, x_mean = published.update(x, drift, R, A, dt, diffusion * math.sqrt(-dt), z(), method)
    return x, x_mean


def transcribed_vp(x, sde, N, eps, snr, R, A, method, z, predictor, corrector_steps, per_sample, corrector):
    """The same for VP and sub-VP: the whole reverse drift is preconditioned."""
    discrete_betas = torch.linspace(sde.beta_min / N, sde.beta_max / N, N, dtype=torch.float64)
    for t in torch.linspace(1, eps, N, dtype=torch.float64):
        told = t.expand(len(x))
        beta_t = sde.beta_min + t * (sde.beta_max - sde.beta_min)
        integral = sde.beta_min * t + (sde.beta_max - sde.beta_min) * t**2 / 2
        discount = 1 - torch.exp(-integral)
        diffusion = torch.sqrt(beta_t * (1 - torch.exp(-2 * integral))) if isinstance(sde, SubVP) else beta_t.sqrt()
        beta = discrete_betas[int(t * (N - 1))]
        for _ in range(corrector_steps):
            s, std = score(x, told), discount if isinstance(sde, SubVP) else torch.sqrt(discount)
            x, x_mean = corrected(x, s, R, A, snr, 1 - beta, z(), method, per_sample, std, corrector)
        if predictor == "ancestral":
            s = score(x, told)
            v = (x + beta * s) / torch.sqrt(1 - beta) - x
            x, x_mean = published.update(x, v, R, A, 1.0, torch.sqrt(beta), z(), method)
            continue
        if predictor == "reverse_diffusion" and not isinstance(sde, SubVP):
            f, G = torch.sqrt(1 - beta) * x - x, torch.sqrt(beta)
        elif predictor is not None:
            f, G = -0.5 * beta_t * x / N, diffusion * math.sqrt(1 / N)
        if predictor is not None:
            reverse_f = f - G**2 * score(x, told)
            x, x_mean = published.update(x, -reverse_f, R, A, 1.0, G, z(), method)
    return x, x_mean


@pytest.mark.parametrize("sde", [VE(0.01, 8.0), VP(), SubVP()], ids=["VE", "VP", "SubVP"])
@pytest.mark.parametrize("method", ["pds", "tdas"])
@pytest.mark.parametrize("space", [True, False])
@pytest.mark.parametrize(
    ("predictor", "corrector_steps", "norm", "corrector"),
    [
        ("reverse_diffusion", 1, "batch", "langevin"),
        ("euler_maruyama", 2, "sample", "langevin"),
        (None, 1, "batch", "langevin"),
        ("reverse_diffusion", 0, "batch", "langevin"),
        ("ancestral", 0, "batch", "langevin"),
        ("ancestral", 1, "batch", "ald"),
        (None, 2, "batch", "ald"),
    ],
)
def test_pc_equals_the_transcription(sde, method, space, predictor, corrector_steps, norm, corrector):
    if predictor == "ancestral" and isinstance(sde, SubVP):
        predictor = "euler_maruyama"  # sub-VP has no ancestral rule
    p = make_problem(3, SHAPE[1:], method=method, space=space)
    iterations, seed = 24, 5
    transcribed = transcribed_ve if isinstance(sde, VE) else transcribed_vp
    eps = (1e-5 if isinstance(sde, VE) else 1e-3) * 1000 / iterations
    x, x_mean = transcribed(
        p.x,
        sde,
        iterations,
        eps,
        0.16,
        p.R,
        p.A,
        method,
        SharedNoise(seed, space),
        predictor,
        corrector_steps,
        norm == "sample",
        corrector,
    )
    for denoise, expected in ((True, x_mean), (False, x)):
        with tdas_ops.use_backend("reference"):
            got = samplers.pc(
                score,
                SHAPE,
                sde,
                p.M,
                noise=NoiseStream(seed),
                iterations=iterations,
                snr=0.16,
                predictor=predictor,
                corrector=corrector,
                corrector_steps=corrector_steps,
                norm=norm,
                start=p.x,
                denoise=denoise,
                progress=False,
            )
        assert relative_rms(got, expected) < 1e-11
    # The ancestral rule of VE ends without noise.
    assert (relative_rms(x, x_mean) > 1e-8) is not (predictor == "ancestral" and isinstance(sde, VE))


def test_start_point_and_first_draw():
    M = Preconditioner.from_masks(even(torch.rand(2, 4, 5) + 0.5))
    for sde, scale in ((VE(0.01, 8.0), 8.0), (VP(), 1.0)):
        seen = []
        samplers.pc(
            lambda x, t, seen=seen: seen.append(x.clone()) or -x,
            SHAPE,
            sde,
            M,
            noise=NoiseStream(1),
            iterations=30,
            progress=False,
        )
        assert torch.equal(seen[0], tdas_ops.noise(M, SHAPE, NoiseStream(1), scale))


@pytest.mark.parametrize("sde", [VE(0.01, 8.0), VP()], ids=["VE", "VP"])
def test_speed_up_rule(sde):
    """r times fewer iterations end at r times the native end time, from the same start."""
    native, fast = sde.levels(1000), sde.levels(50)
    assert len(native) == 1000 and len(fast) == 50
    assert math.isclose(fast[-1].time, 20 * native[-1].time)
    assert math.isclose(native[-1].time, 1e-5 if isinstance(sde, VE) else 1e-3)
    assert fast[0].time == native[0].time == 1.0
    if isinstance(sde, VE):
        assert math.isclose(sum(level.reverse[1] for level in fast), 64.0)
        assert math.isclose(fast[-1].reverse[1], 1e-4)
        assert math.isclose(fast[0].condition, 8.0)


@pytest.mark.parametrize("rule", ["ncsn", "ncsnv2"])
@pytest.mark.parametrize("method", ["pds", "tdas"])
def test_annealed_langevin_equals_the_formulas(rule, method):
    p = make_problem(3, SHAPE[1:], method=method)
    sigmas, steps, epsilon = [4.0, 1.0, 0.25], 3, 1e-3
    z, x = SharedNoise(5, True), p.x
    for sigma in sigmas:
        alpha = epsilon * sigma**2 / sigmas[-1] ** 2
        for _ in range(steps):
            s = score(x, torch.full((3,), sigma, dtype=torch.float64))
            if rule == "ncsn":
                x, _ = published.update(x, s, p.R, p.A, alpha / 2, math.sqrt(alpha), z(), method)
            else:
                x, _ = published.update(x, s, p.R, p.A, alpha, math.sqrt(2 * alpha), z(), method)
    clean = x + sigmas[-1] ** 2 * score(x, torch.full((3,), sigmas[-1], dtype=torch.float64))
    for denoise in (None, True, False):
        with tdas_ops.use_backend("reference"):
            got = samplers.annealed_langevin(
                score,
                SHAPE,
                sigmas,
                p.M,
                noise=NoiseStream(5),
                step_size=epsilon,
                steps=steps,
                rule=rule,
                denoise=denoise,
                start=p.x,
                progress=False,
            )
        wanted = denoise if denoise is not None else rule == "ncsnv2"
        assert relative_rms(got, clean if wanted else x) < 1e-12


@pytest.mark.parametrize(
    ("sigma", "levels", "published_epsilon"), [(50.0, 232, 6.2e-6), (90.0, 500, 3.3e-6)], ids=["CIFAR-10", "CelebA"]
)
def test_step_size_of_technique_4(sigma, levels, published_epsilon):
    """The published step sizes of NCSNv2 (arXiv 2006.09011, appendix, table of hyperparameters), T = 5."""
    ladder = [sigma * (0.01 / sigma) ** (i / (levels - 1)) for i in range(levels)]
    assert math.isclose(samplers.ncsnv2_step_size(ladder, 5), published_epsilon, rel_tol=0.05)


def run(**options):
    M = Preconditioner.from_masks(even(torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1)) + 0.5))
    defaults = {"noise": NoiseStream(5), "iterations": 12, "progress": False}
    return samplers.pc(score, SHAPE, VE(0.01, 8.0), M, **(defaults | options))


def schedule(length, **options):
    """So many different preconditioners of the small problems."""
    return [make_problem(1, SHAPE[1:], seed=i, **options).M for i in range(length)]


@pytest.mark.parametrize("method", ["pds", "tdas"])
def test_a_filter_for_each_iteration(method):
    """`M[i]` serves iteration i, and `M[0]` the start: the same as one run after the other, each with its own."""
    filters, sde, options = schedule(4, method=method), VE(0.01, 8.0), {"noise": NoiseStream(5), "progress": False}
    whole = samplers.pc(score, SHAPE, sde, filters, iterations=4, **options)
    state: list[dict] = []
    for i, M in enumerate(filters):
        kept = state[-1] if state else None
        stream, made = NoiseStream(5), []
        options = {"noise": stream, "progress": False, "resume": kept}
        x = samplers.pc(
            score, SHAPE, sde, M, iterations=4, callback=lambda s, made=made: made.append(s.state_dict()), **options
        )
        assert made[0]["iteration"] == i + 1
        state.append(made[0])
    assert torch.equal(x, whole)
    same = samplers.pc(score, SHAPE, sde, [filters[0]] * 4, iterations=4, noise=NoiseStream(5), progress=False)
    assert torch.equal(
        same, samplers.pc(score, SHAPE, sde, filters[0], iterations=4, noise=NoiseStream(5), progress=False)
    )
    assert not torch.equal(same, whole)


def test_a_filter_for_each_noise_level():
    filters, sigmas = schedule(3), [4.0, 2.0, 1.0]
    run_with = lambda M, **o: samplers.annealed_langevin(
        score, SHAPE, sigmas, M, noise=NoiseStream(5), step_size=1e-3, steps=2, progress=False, **o
    )
    states: list[dict] = []
    whole = run_with(filters, callback=lambda s: states.append(s.state_dict()))
    assert torch.equal(run_with(filters[2], resume=states[1]), whole)
    assert not torch.equal(run_with(filters[1], resume=states[1]), whole)


@pytest.mark.parametrize("stop", [1, 7, 12])
def test_resume_is_bit_identical(stop, tmp_path):
    states = []
    expected = run(callback=lambda state: states.append(state.state_dict()))
    assert [s["iteration"] for s in states] == list(range(1, 13))
    torch.save(states[stop - 1], tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(run(resume=state, noise=NoiseStream(99)), expected)
    with pytest.raises(ValueError, match="resume: got a run of 12 iterations"):
        run(resume=state, iterations=13)


def test_resume_annealed_langevin_and_seeds():
    M = Preconditioner.identity((2, 4, 5))
    states = []
    options = {"step_size": 1e-3, "steps": 2, "progress": False}
    sigmas = [4.0, 2.0, 1.0]
    expected = samplers.annealed_langevin(
        score,
        SHAPE,
        sigmas,
        M,
        noise=NoiseStream(seeds=[1, 2, 3]),
        callback=lambda s: states.append(s.state_dict()),
        **options,
    )
    got = samplers.annealed_langevin(score, SHAPE, sigmas, M, noise=NoiseStream(0), resume=states[1], **options)
    assert torch.equal(got, expected)


def test_interrupted_run_loses_nothing():
    kept = []

    def stop(state):
        kept.append(state.state_dict())
        if state.iteration == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(callback=stop)
    assert torch.equal(run(resume=kept[-1]), run())


def test_same_seed_same_picture_in_any_batch():
    M = Preconditioner.from_masks(even(torch.rand(2, 4, 5) + 0.5))
    make = lambda seeds: samplers.pc(
        score,
        (len(seeds), *SHAPE[1:]),
        VE(0.01, 8.0),
        M,
        noise=NoiseStream(seeds=seeds),
        iterations=12,
        norm="sample",
        progress=False,
    )
    assert relative_rms(make([7]), make([3, 7])[1:]) < 1e-4


def test_check_finite_names_the_iteration():
    calls = []

    def breaks(x, level):
        calls.append(1)
        return score(x, level) * (math.nan if len(calls) > 6 else 1.0)

    M = Preconditioner.identity((2, 4, 5))
    options = {"noise": NoiseStream(5), "iterations": 12, "progress": False}
    with pytest.raises(FloatingPointError, match="iteration 4 of 12"):
        samplers.pc(breaks, SHAPE, VE(), M, check_finite=True, **options)
    calls.clear()
    assert samplers.pc(breaks, SHAPE, VE(), M, **options).isnan().any()


@pytest.mark.parametrize("sde", [VE(0.01, 8.0), VP()], ids=["VE", "VP"])
def test_inpainting_holds_the_known_part(sde):
    known = torch.linspace(0, 1, 40).reshape(2, 4, 5)
    mask = torch.zeros(2, 4, 5)
    mask[..., :2] = 1
    M = Preconditioner.from_masks(even(torch.rand(2, 4, 5) + 0.5))
    seen = []
    x = samplers.pc(
        score,
        SHAPE,
        sde,
        M,
        noise=NoiseStream(5),
        iterations=50,
        hook=samplers.inpaint(known, mask),
        callback=lambda s: seen.append(s.x.clone()),
        denoise=False,
        progress=False,
    )
    last = sde.levels(50)[-1]
    held = x[..., :2] - last.mean_scale * known[..., :2]
    assert held.abs().max() < 5 * last.std
    assert (x[..., 2:] - known[..., 2:]).abs().max() > 5 * last.std
    assert seen[0][..., :2].std() > 0.3 * sde.start_scale


def test_denoised_sample_keeps_the_known_part_exactly():
    known, mask = torch.full((2, 4, 5), 0.5), torch.ones(2, 4, 5)
    assert torch.equal(run(hook=samplers.inpaint(known, mask)), known.expand(SHAPE))
    M = Preconditioner.identity((2, 4, 5))
    x = samplers.annealed_langevin(
        score, SHAPE, [2.0, 1.0], M, noise=NoiseStream(1), steps=2, hook=samplers.inpaint(known, mask), progress=False
    )
    assert torch.equal(x, known.expand(SHAPE))


def test_what_is_known_is_a_tensor():
    for name, given in (("known", (1, torch.ones(2))), ("mask", (torch.ones(2), 2))):
        with pytest.raises(TypeError, match=f"^{name}: got int, expected a tensor"):
            samplers.inpaint(*given)


STREAMS = {
    "plain": (lambda: NoiseStream(5), "batch"),
    "seeds": (lambda: NoiseStream(seeds=[5, 6, 7]), "sample"),
    "first shard": (lambda: NoiseStream(5, first_sample=0), "sample"),
    "later shard": (lambda: NoiseStream(5, first_sample=3), "sample"),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_norms_are_taken_as_the_stream_names_its_samples(kind):
    stream, norm = STREAMS[kind]
    results = {norm: run(noise=stream(), norm=norm) for norm in ("batch", "sample", None)}
    assert torch.equal(results[None], results[norm])
    assert not torch.equal(results["batch"], results["sample"])


@pytest.mark.parametrize("kind", STREAMS)
def test_a_resumed_run_keeps_its_norm(kind):
    """That of the stream that it was started with, whatever stream is there when it goes on."""
    states = []
    expected = run(noise=STREAMS[kind][0](), callback=lambda s: states.append(s.state_dict()))
    for noise in (NoiseStream(1), NoiseStream(seeds=[1, 2, 3])):
        assert torch.equal(run(noise=noise, resume=states[4]), expected)


def test_named_samples_do_not_depend_on_their_batch():
    """Picture 7 alone, and shards of a run: to the bit, without a word about norms."""
    M = Preconditioner.from_masks(even(torch.rand(2, 4, 5) + 0.5))
    make = lambda noise, batch: samplers.pc(
        score, (batch, *SHAPE[1:]), VE(0.01, 8.0), M, noise=noise, iterations=12, progress=False
    )
    whole = make(NoiseStream(seeds=[3, 7, 1]), 3)
    assert torch.equal(make(NoiseStream(seeds=[7]), 1), whole[1:2])
    whole = make(NoiseStream(5, first_sample=0), 3)
    assert torch.equal(make(NoiseStream(5, first_sample=0), 1), whole[:1])
    assert torch.equal(make(NoiseStream(5, first_sample=1), 2), whole[1:])


def test_a_state_of_an_older_version_is_read():
    for first_sample, named in ((0, False), (2, True)):
        state = {"seeds": [5], "per_sample": False, "first_sample": first_sample, "draw": 3}
        assert NoiseStream.from_state_dict(state).named is named
    for stream, _ in STREAMS.values():
        assert NoiseStream.from_state_dict(stream().state_dict()).named is stream().named


BAD = {
    "iterations 0": ("iterations: got 0", {"iterations": 0}),
    "iterations 1.5": ("iterations: got 1.5", {"iterations": 1.5}),
    "predictor": ("predictor: got 'ode'", {"predictor": "ode"}),
    "corrector": ("corrector: got 'mala', expected 'langevin' or 'ald'", {"corrector": "mala"}),
    "snr": ("snr: got -0.1", {"snr": -0.1, "corrector": "ald"}),
    "option": ("options: got iteration, expected arguments of the sampler or start, hook", {"iteration": 3}),
    "nothing to do": ("corrector_steps: got 0 with predictor None", {"predictor": None, "corrector_steps": 0}),
    "start shape": (r"start: got \(1, 2, 4, 5\)", {"start": torch.zeros(1, 2, 4, 5)}),
    "end time": ("end_time: got 1.0", {"end_time": 1.0}),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    message, options = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        run(**options)
    assert "expected" in str(caught.value)


def test_bad_schedules_of_filters():
    filters = schedule(4)
    mixed = {
        "expected one shape, method and device": [
            [*filters[:3], Preconditioner.identity((2, 4, 4))],
            [*filters[:3], *schedule(1, method="tdas")],
            [*filters[:3], filters[3].to("meta")],
        ],
        r"[05] preconditioners, expected one, or one for each of 4 iterations": [[], (*filters, filters[0])],
    }
    for message, cases in mixed.items():
        for M in cases:
            with pytest.raises(ValueError, match=f"^M: got.*{message}"):
                samplers.pc(score, SHAPE, VE(), M, noise=NoiseStream(1), iterations=4, progress=False)
    for M in ([*filters[:3], 1], 1):
        with pytest.raises(TypeError, match=r"^M: got int, expected a Preconditioner or a sequence of them"):
            samplers.pc(score, SHAPE, VE(), M, noise=NoiseStream(1), iterations=4, progress=False)


def test_more_bad_arguments():
    M = Preconditioner.identity((2, 4, 5))
    with pytest.raises(TypeError, match="noise: got str"):
        samplers.pc(score, SHAPE, VE(), M, noise="seed", progress=False)
    with pytest.raises(ValueError, match="iterations: got 20, expected more than beta_max"):
        samplers.pc(score, SHAPE, VP(), M, noise=NoiseStream(1), iterations=20, progress=False)
    with pytest.raises(TypeError, match=r"^sde: got Discrete, expected VE, VP, SubVP or what sde.SDE describes"):
        samplers.pc(score, SHAPE, Discrete([0.9, 0.1]), M, noise=NoiseStream(1), iterations=20)
    with pytest.raises(TypeError, match=r"^sde: got the class VE, expected an object of it, such as VE\(...\)"):
        samplers.pc(score, SHAPE, VE, M, noise=NoiseStream(1), iterations=20)
    for shape in (SHAPE[1:], SHAPE[0], None, (2.0, *SHAPE[1:])):
        with pytest.raises(ValueError, match=r"^shape: got .*, expected \(B, C, H, W\)"):
            samplers.pc(score, shape, VE(), M, noise=NoiseStream(1), iterations=20)
    with pytest.raises(ValueError, match="VE: got sigma_min, sigma_max"):
        VE(2.0, 1.0)
    with pytest.raises(ValueError, match="SubVP: got beta_min, beta_max"):
        SubVP(-1.0, 1.0)
    with pytest.raises(ValueError, match="predictor: got 'ancestral' with SubVP, which has none"):
        samplers.pc(score, SHAPE, SubVP(), M, noise=NoiseStream(1), iterations=25, predictor="ancestral")
    langevin = lambda sigmas, **o: samplers.annealed_langevin(
        score, SHAPE, sigmas, M, noise=NoiseStream(1), progress=False, **o
    )
    for sigmas in ([], [1.0, 2.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="sigmas: got"):
            langevin(sigmas, step_size=1e-3)
    with pytest.raises(ValueError, match="rule: got"):
        langevin([1.0], rule="v3")
    with pytest.raises(ValueError, match="steps: got 0"):
        langevin([1.0], step_size=1e-3, steps=0)
    with pytest.raises(ValueError, match="step_size: got None with rule 'ncsn'"):
        langevin([1.0], rule="ncsn")
    with pytest.raises(ValueError, match="sigmas: got 1 level"):
        langevin([1.0])
