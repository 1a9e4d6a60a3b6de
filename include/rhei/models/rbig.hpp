// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Rotation-based iterative Gaussianization (Laparra, Camps-Valls & Malo 2011, "Iterative Gaussianization: from ICA to
/// Random Rotations"): a flow that is built and not trained.
///
///   x_(0) = x standardised,   x_(l+1) = R_l Psi_l(x_(l)),    log p(x) = log N(x_(L); 0, 1) + sum_l log|det|
///
/// Psi_l is the marginal Gaussianization of x_(l) and R_l a rotation. Each layer takes away the total of the marginals'
/// negentropies, J = sum_d KL(p_d | N(0, 1)), from what divides p from a normal density (their eq. 8-11). J shrinks
/// from layer to layer, and at some time a layer takes less than its own errors add. To see when, one row in eight is
/// held out: J on these rows is free of the optimism of the rows that place the kernels. RBIG ends when 20 layers have
/// not improved the sum of J on them, and leaves out these layers.
///
/// The result has the layers of a Gaussianization flow with fixed rotations: `fit` can train it further.
///
/// Kullback-Leibler divergence on fresh data (nats), built from 20'000 rows with random rotations and 100 kernels, at
/// most 10, 30 and 100 layers: two_moons 0.15, 0.09, 0.07; eight_gaussians 0.19, 0.11, 0.08; checkerboard 0.35, 0.23,
/// 0.18.

#include <Eigen/Eigenvalues>
#include <rhei/core/flow.hpp>
#include <rhei/distributions/standard_normal.hpp>
#include <rhei/layers/actnorm.hpp>
#include <rhei/layers/marginal_gaussianization.hpp>
#include <rhei/layers/rotation.hpp>

namespace rhei::models {

/// Where RBIG turns its data after each marginal map.
enum class RbigRotation {
  random,    ///< uniformly drawn
  principal  ///< to the principal axes; finds linear structure sooner, but may turn in circles where there is none
};

/// What `rbig` is made of.
struct RbigOptions {
  int layers = 100;                              ///< at most; it ends sooner where layers do not help any more
  Index kernels = 100;                           ///< of each marginal map and feature
  RbigRotation rotation = RbigRotation::random;  ///< of each layer
};

namespace detail {

template <Real S>
using RbigLayer = Chain<Rotation<S>, MarginalGaussianization<S>>;

/// Takes x through the inverse of a layer; returns the mean gain in log-density of its rows, an estimate of J.
template <Real S>
double advance(const MarginalGaussianization<S>& layer, Matrix<S>& x) {
  constexpr Index chunk = 4096;
  typename MarginalGaussianization<S>::Cache cache;
  double gain = 0;
  for (Index first = 0; first < x.rows(); first += chunk) {
    const Matrix<S> in = x.middleRows(first, std::min(chunk, x.rows() - first));
    Matrix<S> out(in.rows(), in.cols());
    Vector<S> log_det = Vector<S>::Zero(in.rows());
    layer.inverse({.keep = Keep::nothing}, in, out, log_det, cache);
    gain += log_det.template cast<double>().sum() +
            0.5 * (in.template cast<double>().squaredNorm() - out.template cast<double>().squaredNorm());
    x.middleRows(first, in.rows()) = out;
  }
  return gain / static_cast<double>(x.rows());
}

/// The principal axes of the rows of x as columns, that of the least variance first, and the variances along them.
template <Real S>
Eigen::SelfAdjointEigenSolver<Matrix<double>> principal_axes(const Matrix<S>& x) {
  Matrix<double> centred = x.template cast<double>();
  for (Index d = 0; d < x.cols(); ++d) centred.col(d).array() -= centred.col(d).mean();
  Matrix<double> covariance(x.cols(), x.cols());
  covariance.setZero();
  add_transposed_product(covariance, centred, centred);
  return Eigen::SelfAdjointEigenSolver<Matrix<double>>(covariance / static_cast<double>(x.rows()));
}

template <Real S>
Rotation<S> make_rotation(RbigRotation kind, const Matrix<S>& x, Rng& rng) {
  if (kind == RbigRotation::random) return Rotation<S>::random(x.cols(), rng);
  return Rotation<S>::from_matrix(Matrix<S>(principal_axes(x).eigenvectors().transpose().template cast<S>()));
}

/// x Q^T.
template <Real S>
Matrix<S> rotated(const Matrix<S>& x, const Rotation<S>& rotation) {
  Matrix<S> out(x.rows(), x.cols());
  set_product_transposed(out, x, rotation.matrix());
  return out;
}

}  // namespace detail

/// What `rbig` returns.
template <Real S>
using Rbig = Flow<StandardNormal<S>, Chain<Repeat<detail::RbigLayer<S>>, ActNorm<S>>>;

/// The RBIG flow of the rows of x (n x D).
/// \throws std::invalid_argument if x has less than 16 rows or no columns, if it holds what is not finite, if a column
/// does not vary or is, to nearly all digits, a linear combination of others (there is no density then), or if layers
/// or kernels is less than 1.
template <Real S>
Rbig<S> rbig(const Eigen::Ref<const Matrix<S>>& x, const RbigOptions& options, Rng& rng) {
  constexpr std::string_view where = "models::rbig";
  constexpr Index part = 8;  // one row in so many is held out
  constexpr std::size_t patience = 20;
  const auto check = [&](std::string_view what, auto came, bool ok, std::string_view expected) {
    rhei::detail::check_value(where, what, came, ok, expected);
  };
  check("the number of rows of x", x.rows(), x.rows() >= 2 * part, "at least 16");
  check("layers", options.layers, options.layers >= 1, "at least 1");
  ActNorm<S> standardise(x.cols());
  standardise.initialize({}, Matrix<S>(x));
  for (Index d = 0; d < x.cols(); ++d) {
    const S range = x.col(d).maxCoeff() - x.col(d).minCoeff();
    check("the range of column " + std::to_string(d) + " of x", range, range > 0, "a positive one");
  }
  std::vector<Index> order(static_cast<std::size_t>(x.rows()));
  std::iota(order.begin(), order.end(), Index(0));
  rng.shuffle(order);
  const Index held = x.rows() / part;
  Matrix<S> rows(x.rows() - held, x.cols()), held_out(held, x.cols());
  for (Index i = 0; i < x.rows(); ++i) {
    const auto row = (x.row(order[static_cast<std::size_t>(i)]) - standardise.parameters().shift)
                         .cwiseQuotient(standardise.parameters().log_scale.array().exp().matrix());
    if (i < held)
      held_out.row(i) = row;
    else
      rows.row(i - held) = row;
  }
  const double smallest = detail::principal_axes(rows).eigenvalues()[0];
  check("the smallest eigenvalue of the correlations of x", smallest, smallest > 1e-10,
        "more than 1e-10 (is a column a copy, or a combination, of others?)");

  std::vector<detail::RbigLayer<S>> layers;  // from the data on
  std::size_t best = 1;
  double gain = 0, best_gain = -std::numeric_limits<double>::infinity();
  while (layers.size() < static_cast<std::size_t>(options.layers) && layers.size() < best + patience) {
    MarginalGaussianization<S> marginal(x.cols(), options.kernels);
    marginal.initialize({}, rows);
    detail::advance(marginal, rows);
    gain += detail::advance(marginal, held_out);
    const Rotation<S> rotation = detail::make_rotation(options.rotation, rows, rng);
    rows = detail::rotated(rows, rotation);
    held_out = detail::rotated(held_out, rotation);
    layers.push_back(Chain{rotation, std::move(marginal)});
    if (gain <= best_gain) continue;
    best_gain = gain;
    best = layers.size();
  }
  layers.erase(layers.begin() + static_cast<std::ptrdiff_t>(best), layers.end());
  std::reverse(layers.begin(), layers.end());
  return Rbig<S>(StandardNormal<S>(x.cols()), Repeat<detail::RbigLayer<S>>(std::move(layers)), std::move(standardise));
}

}  // namespace rhei::models
