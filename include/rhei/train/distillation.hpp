// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Probability density distillation (van den Oord et al. 2018, "Parallel WaveNet", section 4): a flow that is quick to
/// draw from, the student, learns from one that is quick to evaluate, the teacher,
///
///   KL(student || teacher) = E_{x ~ student}[log student(x) - log teacher(x)].
///
/// The teacher's parameters stay as they are; the gradient reaches the student through x, the teacher's input. The loss
/// is the divergence itself, in nats, and its least value 0. Where the teacher has modes that are apart,
/// LogVariance(FixedDensity(teacher)) learns how the mass is divided between them, of which the path gradient hardly
/// knows.

#include <rhei/train/reverse_kl.hpp>

namespace rhei {

/// A teacher that is any distribution or flow over the student's scalar and dimension; the context goes to both (to
/// those that take any). The teacher must outlive this and stay where it is.
template <Distribution Teacher>
class Distillation : public ReverseKl<FixedDensity<Teacher>> {
 public:
  static constexpr std::string_view type = "distillation";

  /// The path estimator's noise goes to zero as the student becomes the teacher; see Estimator.
  explicit Distillation(const Teacher& teacher, Estimator estimator = Estimator::path)
      : ReverseKl<FixedDensity<Teacher>>(FixedDensity<Teacher>(teacher), estimator) {}
};

}  // namespace rhei
