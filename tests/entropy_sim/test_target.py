"""Vectors of full width where LLVM would halve them, and the user's choice respected."""

import os
import platform
import subprocess
import sys

import pytest
from llvmlite import binding as llvm

from entropy_sim import _target

WIDE = "+64bit,+avx2,+avx512dq,+avx512f,+avx512vl,-sse4a"


def compiled(processor, features):
    """Assembly of a loop over doubles for that processor."""
    ir = """
    define void @scale(ptr noalias %x, i64 %n) {
    entry: br label %loop
    loop:
      %i = phi i64 [0, %entry], [%next, %loop]
      %p = getelementptr double, ptr %x, i64 %i
      %v = load double, ptr %p
      %y = fmul double %v, 3.0
      store double %y, ptr %p
      %next = add i64 %i, 1
      %more = icmp slt i64 %next, %n
      br i1 %more, label %loop, label %done
    done: ret void }"""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine(
        cpu=processor, features=features, opt=3
    )
    module = llvm.parse_assembly(ir)
    module.triple = machine.triple
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return machine.emit_assembly(module)


x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="LLVM is built for its own processor")


@x86
@pytest.mark.parametrize("processor", ["skylake-avx512", "icelake-server", "sapphirerapids"])
def test_intel_compiles_to_full_width_only_with_the_features_named(processor):
    assert "zmm" not in compiled(processor, WIDE)
    assert "zmm" in compiled(processor, _target.wide_features(processor, WIDE))


@x86
def test_amd_compiles_to_full_width_anyway():
    assert "zmm" in compiled("znver4", WIDE)


def test_processors_that_need_no_help_are_left_alone():
    assert _target.wide_features("znver4", WIDE) is None
    assert _target.wide_features("haswell", "+avx,+avx2,-avx512f") is None
    assert _target.wide_features("apple-m2", "+neon,+aes") is None
    assert _target.wide_features("", "") is None


def features_of_a_process(**environment):
    code = "import numba, numba.core.codegen as codegen; from llvmlite import binding as llvm;"
    code += "llvm.get_host_cpu_name = lambda: 'skylake-avx512';"
    code += f"codegen.get_host_cpu_features = lambda: {WIDE!r}; import entropy_sim._random;"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_CPU", "ENTROPIC_"))}
    done = subprocess.run(
        [sys.executable, "-c", code + "print(numba.config.CPU_FEATURES)"],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, WIDE + ",-prefer-256-bit"),
        ({"ENTROPIC_WIDE_VECTORS": "0"}, "None"),
        ({"NUMBA_CPU_FEATURES": "+avx2"}, "+avx2"),
        ({"NUMBA_CPU_NAME": "haswell"}, "None"),
    ],
)
def test_the_users_choice_stands(environment, expected):
    assert features_of_a_process(**environment) == expected
