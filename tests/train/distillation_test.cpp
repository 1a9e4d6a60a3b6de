// SPDX-License-Identifier: MIT

/// \file
/// Distillation: the divergence and its gradient through the teacher's input, and a student that reaches its teacher.

#include <rhei/core/inverted.hpp>

#include "objective_checks.hpp"

using namespace rhei;
using namespace rhei::testing;

namespace {

Matrix<double> normal_context(Index n, Rng& rng) {
  Matrix<double> context(n, 1);
  rng.fill_normal(context);
  return context;
}

}  // namespace

TEST_CASE("Distillation differentiates the divergence through the teacher's input", "[distillation]") {
  const Index teacher_context = GENERATE(0, 1), student_context = GENERATE(0, 1);
  auto student = small_flow<double>(1, student_context);
  const auto teacher = small_flow<double>(2, teacher_context);
  const Index columns = std::max(student_context, teacher_context);
  if (student_context < columns) return;  // the student's contexts are what a step is given
  Rng rng(3);
  const Matrix<double> context = normal_context(columns > 0 ? 5 : 0, rng).leftCols(columns);
  const DrawView<double> batch{.n = 5, .context = context};

  const Distillation total(teacher, Estimator::total), path(teacher);
  const auto loss = [&] { return Evaluated(student, total, batch, 4).loss; };
  check_gradient(Evaluated(student, total, batch, 4), numeric_gradient(student, loss));

  const auto frozen = student;
  const auto frozen_loss = [&] {
    Rng draws = generator_of_step(4);
    typename decltype(student)::Cache cache;
    Matrix<double> x(batch.n, 2);
    student.sample(Call<double>{.context = context, .rng = &draws}, Batch<double>(x), cache);
    return frozen.log_prob(x, context).mean() -
           teacher.log_prob(x, teacher_context > 0 ? context : Matrix<double>()).mean();
  };
  check_gradient(Evaluated(student, path, batch, 4), numeric_gradient(student, frozen_loss));
  CHECK(loss() == Approx(frozen_loss()).epsilon(1e-12));
}

TEST_CASE("A student that is its teacher has nothing to learn", "[distillation]") {
  auto student = small_flow<double>(5);
  const auto teacher = student;
  Trainer trainer(student, Distillation(teacher));
  Rng rng(6);
  const auto step = trainer.differentiate({.n = 100}, rng);
  CHECK(std::abs(step.loss) < 1e-12);
  CHECK(step.gradient_norm < 1e-12);
}

TEMPLATE_TEST_CASE("A student reaches its teacher", "[distillation][fit]", RHEI_TEST_SCALARS) {
  using S = TestType;
  Rng rng(7);
  // the teacher is quick to evaluate, the student quick to draw from: layers of the same family, turned around
  const auto teacher = small_flow<S>(8);
  const auto before = teacher.log_prob(Matrix<S>::Ones(1, 2));
  using Turned = Inverted<AffineCoupling<S>>;
  Flow student{
      DiagonalNormal<S>(2),
      Repeat(4,
             [&](int i) {
               return Turned(AffineCoupling<S>(2, {.transformed = {i % 2}, .net = {{12}, Activation::tanh}}, rng));
             }),
      LuLinear<S>(2)};
  const auto first = importance_report(student, FixedDensity(teacher), 4000, rng);
  const FitReport report =
      fit_variational(student, Distillation(teacher), {.steps = 2000, .batch_size = 64, .learning_rate = 1e-2}, rng);
  const auto last = importance_report(student, FixedDensity(teacher), 4000, rng);
  CAPTURE(first.bound, last.bound, report.last().train_loss);
  CHECK(-first.bound > 0.2);  // the divergence, as both are normalised
  CHECK(std::abs(last.bound) < 1e-3);
  CHECK(std::abs(report.last().train_loss) < 1e-3);
  CHECK(last.log_z == Approx(0).margin(0.01));
  CHECK(teacher.log_prob(Matrix<S>::Ones(1, 2)) == before);
}
