// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The Sylvester flow (van den Berg et al. 2018, "Sylvester Normalizing Flows for Variational Inference", theorems 1
/// and 2, section 4.2): M planar flows at once, inside a subspace of M dimensions.
///
///   forward  x = z + Q R t,  t = tanh(a),  a = W y + b,  y = Q^T z      log|det| =  sum_i log(1 + q_i (1 - t_i^2))
///   inverse  z = x - Q R t                                             log|det| = -sum_i log(1 + q_i (1 - t_i^2))
///
/// for one sample as a column. Q is D x M with orthonormal columns: the first M columns of H_1 H_2 ... H_M, with
/// H_k = I - 2 v_k v_k^T / |v_k|^2. R and W (the paper's R and R~) are M x M and upper triangular, and q_i = R_ii W_ii
/// must exceed -1: q_i = m(u_i W_ii) for a free u_i, by the same m as in planar.hpp, so R_ii = u_i + u_i^2 W_ii / (1 +
/// sqrt(1 + s^2)), s = u_i W_ii. (The paper takes the tanh of both diagonals, and no |q_i| reaches 1.)
///
/// The inverse goes from the last coordinate of y = Q^T z to the first. With r_i = (Q^T x)_i - sum_{j>i} R_ij t_j and
/// c_i = b_i + sum_{j>i} W_ij y_j it solves
///
///   a_i + q_i tanh(a_i) = W_ii r_i + c_i,        y_i = r_i - R_ii t_i
///
/// to the last few units; its pullback is that of the implicit function, one substitution in M dimensions. Both
/// directions cost n M (2 D + M) multiply-adds, n M tanh, and D M^2 for Q.

#include <rhei/layers/detail/triangular.hpp>
#include <rhei/layers/planar.hpp>
#include <vector>

namespace rhei {

/// A Sylvester flow of `dim` features that bends `count` directions.
template <Real S>
class Sylvester {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "sylvester";

  struct Parameters {
    Matrix<S> vectors;  ///< D x M, v_1 ... v_M of any length but zero
    /// M x M: R above its diagonal, u on it. Below the diagonal it is not read and its gradient is zero.
    Matrix<S> r;
    Matrix<S> w;     ///< M x M: W. Below the diagonal it is not read and its gradient is zero.
    RowVector<S> b;  ///< M

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("vectors", self.vectors);
      f("r", self.r);
      f("w", self.w);
      f("b", self.b);
    }
  };
  using Gradient = Parameters;
  struct Cache {
    SolveReport solve;                       ///< of the last inverse
    std::vector<detail::TanhBend<S>> bends;  ///< M, of every q_i
    RowVector<S> r_diagonal, w_diagonal;     ///< M
    Matrix<S> q;                             ///< D x M, Q
    Buffer<S> y, t, h, slope;                ///< n x M each: Q^T z, tanh(a), 1 - t^2, 1 + q_i (1 - t_i^2)
    Buffer<S> moved;                         ///< n x M, R t, negative after `inverse`
    Buffer<S> d_a, d_y, d_moved;             ///< n x M each, of a pullback
    Matrix<S> rw;                            ///< M x M, W R above its diagonal
    Matrix<S> d_q, part, small;              ///< D x M, D x M and M x M, of a pullback
    Vector<S> left, right, d_vector;         ///< M, M and D, of a pullback
  };

  /// R, W and b uniform in (-0.01, 0.01) on random directions: close to the identity.
  /// \throws std::invalid_argument if dim < 1, or count is not 1 to dim.
  Sylvester(Index dim, Index count, Rng& rng) : Sylvester(dim, count) {
    rng.fill_normal(parameters_.vectors);
    const auto fill = [&](Batch<S> values) {
      rng.fill_uniform(values);
      values.array() = S(0.02) * values.array() - S(0.01);
    };
    fill(parameters_.r);
    fill(parameters_.w);
    fill(parameters_.b);
    for (Index j = 0; j < count; ++j) {
      parameters_.r.col(j).tail(count - j - 1).setZero();
      parameters_.w.col(j).tail(count - j - 1).setZero();
    }
  }

  [[nodiscard]] Index dim() const { return parameters_.vectors.rows(); }
  /// The number of directions M.
  [[nodiscard]] Index count() const { return parameters_.vectors.cols(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  [[nodiscard]] static constexpr Traits traits() { return {.inverse_exact = false}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()).set("count", count()); }
  static Sylvester from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1), count = options.get_size("count", 1);
    options.check_tensors({{dim, count}, {count, count}, {count, count}});
    if (count > dim)
      throw std::runtime_error("description of 'sylvester': 'count' is " + std::to_string(count) +
                               ", expected at most 'dim', " + std::to_string(dim));
    return Sylvester(dim, count);
  }

  /// x = z + Q R tanh(W Q^T z + b): n M (2 D + M) multiply-adds, n M tanh.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Sylvester::forward", *this, call, z, x, log_det.size());
    prepare(z.rows(), cache);
    Batch<S> y = cache.y.view(), t = cache.t.view(), moved = cache.moved.view();
    set_product(y, z, cache.q);
    t = y;
    detail::multiply_triangle<lower, true>(t, parameters_.w, cache.w_diagonal.data());
    for (Index i = 0; i < count(); ++i) {
      t.col(i).array() += parameters_.b[i];
      bend(S(1), i, log_det, cache);
    }
    moved = t;
    detail::multiply_triangle<lower, true>(moved, parameters_.r, cache.r_diagonal.data());
    x = z;
    add_product_transposed(x, moved, cache.q);
  }

  /// M scalar equations per sample, from the last coordinate to the first; how they went is in Cache::report.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Sylvester::inverse", *this, call, x, z, log_det.size());
    prepare(x.rows(), cache);
    cache.solve = {};
    const auto& r = parameters_.r;
    const auto& w = parameters_.w;
    Batch<S> y = cache.y.view(), t = cache.t.view(), moved = cache.moved.view();
    set_product(y, x, cache.q);
    for (Index i = count() - 1; i >= 0; --i) {
      auto y_i = y.col(i);
      auto t_i = t.col(i);
      t_i.setConstant(parameters_.b[i]);
      for (Index j = i + 1; j < count(); ++j) {
        y_i -= r(i, j) * t.col(j);
        t_i += w(i, j) * y.col(j);
      }
      t_i += cache.w_diagonal[i] * y_i;
      const detail::TanhBend<S>& scalar = cache.bends[static_cast<std::size_t>(i)];
      for (Index row = 0; row < t.rows(); ++row) t_i[row] = scalar.solve(t_i[row], cache.solve);
      bend(S(-1), i, log_det, cache);
      y_i -= cache.r_diagonal[i] * t_i;
    }
    moved = -t;
    detail::multiply_triangle<lower, true>(moved, r, cache.r_diagonal.data());
    z = x;
    add_product_transposed(z, moved, cache.q);
  }

  /// With h = 1 - t^2 and k = 1 + q h: d_t = R^T Q^T d_x, d_a = h d_t - 2 t h q / k d_log_det, d_y = W^T d_a and
  /// d_z = d_x + Q d_y.
  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache& cache, ConstBatch<S> d_x,
                        ConstValues<S> d_log_det, Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    Batch<S> d_moved = cache.d_moved.resize(z.rows(), count()), d_a = cache.d_a.resize(z.rows(), count());
    set_product(d_moved, d_x, cache.q);
    d_a = d_moved;
    detail::multiply_triangle<upper, false>(d_a, parameters_.r, cache.r_diagonal.data());
    for (Index i = 0; i < count(); ++i) {
      const S *t = column(cache.t, i), *h = column(cache.h, i), *k = column(cache.slope, i);
      cache.bends[static_cast<std::size_t>(i)].pull_back_forward(d_a.rows(), d_a.col(i).data(), t, h, k,
                                                                 d_log_det.data());
    }
    set_d_y(d_a, cache);
    if (d_z) {
      *d_z = d_x;
      add_product_transposed(*d_z, cache.d_y.view(), cache.q);
    }
    if (gradient) add_gradient(S(1), z, d_x, d_log_det, *gradient, cache);
  }

  /// x = f(z), whose pullback takes d_x to the cotangent of z. Solved for d_x, that gives d_x = d_z + Q W^T d_a, where
  /// (k + h (W R)^T without its diagonal) d_a = 2 t h q / k d_log_det - h R^T Q^T d_z: one substitution, from the first
  /// coordinate to the last. Parameters get minus what f's pullback gives them for d_x.
  void inverse_pullback(const Call<S>&, ConstBatch<S>, ConstBatch<S> z, Cache& cache, ConstBatch<S> d_z,
                        ConstValues<S> d_log_det, Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    Batch<S> d_moved = cache.d_moved.resize(z.rows(), count()), d_a = cache.d_a.resize(z.rows(), count());
    set_product(d_moved, d_z, cache.q);
    d_a = d_moved;
    detail::multiply_triangle<upper, false>(d_a, parameters_.r, cache.r_diagonal.data());
    set_rw(cache);
    for (Index i = 0; i < count(); ++i) {
      for (Index j = 0; j < i; ++j) d_a.col(i) += cache.rw(j, i) * d_a.col(j);
      const S *t = column(cache.t, i), *h = column(cache.h, i), *k = column(cache.slope, i);
      cache.bends[static_cast<std::size_t>(i)].pull_back_inverse(d_a.rows(), d_a.col(i).data(), t, h, k,
                                                                 d_log_det.data());
    }
    set_d_y(d_a, cache);
    if (d_x) {
      *d_x = d_z;
      add_product_transposed(*d_x, cache.d_y.view(), cache.q);
    }
    if (!gradient) return;
    d_moved = -(d_moved + cache.d_y.view());
    add_gradient(S(-1), z, d_z, d_log_det, *gradient, cache);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] Sylvester<T> cast() const {
    return cast_to<Sylvester<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  static constexpr auto lower = detail::Triangle::lower, upper = detail::Triangle::upper;

  Sylvester(Index dim, Index count) {
    detail::check_value("Sylvester", "dim", dim, dim >= 1, "at least 1");
    detail::check_value("Sylvester", "count", count, count >= 1 && count <= dim, "1 to dim");
    parameters_ = {Matrix<S>::Zero(dim, count), Matrix<S>::Zero(count, count), Matrix<S>::Zero(count, count),
                   RowVector<S>::Zero(count)};
  }

  static const S* column(const Buffer<S>& buffer, Index i) { return buffer.view().data() + i * buffer.view().rows(); }

  /// Everything that follows from the parameters alone, and memory for n rows.
  void prepare(Index n, Cache& cache) const {
    const auto& vectors = parameters_.vectors;
    cache.q.setIdentity(dim(), count());
    for (Index k = count() - 1; k >= 0; --k) reflect(vectors.col(k), cache.q, cache.left);

    cache.bends.resize(static_cast<std::size_t>(count()));
    cache.w_diagonal = parameters_.w.diagonal();
    cache.r_diagonal.resize(count());
    for (Index i = 0; i < count(); ++i) {
      const S u = parameters_.r(i, i);
      const detail::TanhBend<S> bend(u * parameters_.w(i, i));
      cache.bends[static_cast<std::size_t>(i)] = bend;
      cache.r_diagonal[i] = u * ((1 + bend.above) / (1 + bend.root));  // u + u s / (1 + root)
    }
    for (Buffer<S>* buffer : {&cache.y, &cache.t, &cache.h, &cache.slope, &cache.moved}) buffer->resize(n, count());
  }

  /// m <- (I - 2 v v^T / |v|^2) m; `product` is working memory.
  template <class V>
  static void reflect(const V& v, Matrix<S>& m, Vector<S>& product) {
    product.resize(m.cols());
    product.noalias() = m.transpose() * v;
    product *= S(-2) / v.squaredNorm();
    add_product_transposed(m, v, product);
  }

  /// From a_i in column i of t to tanh, h, slope and log-determinant.
  static void bend(S sign, Index i, Values<S> log_det, Cache& cache) {
    const auto of = [i](Buffer<S>& buffer) { return buffer.view().col(i).data(); };
    cache.bends[static_cast<std::size_t>(i)].apply(log_det.size(), sign, of(cache.t), of(cache.h), of(cache.slope),
                                                   log_det.data());
  }

  void set_d_y(ConstBatch<S> d_a, Cache& cache) const {
    Batch<S> d_y = cache.d_y.resize(d_a.rows(), count());
    d_y = d_a;
    detail::multiply_triangle<upper, false>(d_y, parameters_.w, cache.w_diagonal.data());
  }

  /// W R above its diagonal.
  void set_rw(Cache& cache) const {
    const auto& [vectors, r, w, b] = parameters_;
    cache.rw.resize(count(), count());
    for (Index j = 0; j < count(); ++j)
      for (Index i = 0; i < j; ++i) {
        S sum = cache.w_diagonal[i] * r(i, j) + w(i, j) * cache.r_diagonal[j];
        for (Index k = i + 1; k < j; ++k) sum += w(i, k) * r(k, j);
        cache.rw(i, j) = sum;
      }
  }

  /// From d_a, d_y and d_moved = (sign Q^T d_x) of either direction.
  void add_gradient(S sign, ConstBatch<S> z, ConstBatch<S> d_out, ConstValues<S> d_log_det, Gradient& gradient,
                    Cache& cache) const {
    const ConstBatch<S> y = std::as_const(cache.y).view(), t = std::as_const(cache.t).view(),
                        h = std::as_const(cache.h).view(), slope = std::as_const(cache.slope).view(),
                        d_a = std::as_const(cache.d_a).view(), d_y = std::as_const(cache.d_y).view(),
                        moved = std::as_const(cache.moved).view(), d_moved = std::as_const(cache.d_moved).view();
    detail::add_triangle_gradient<upper, S>(d_a, y, gradient.w, 0, count());
    detail::add_triangle_gradient<upper, S>(d_moved, t, gradient.r, 0, count());
    for (Index i = 0; i < count(); ++i) {
      const detail::TanhBend<S>& bend = cache.bends[static_cast<std::size_t>(i)];
      const S u = parameters_.r(i, i), w = parameters_.w(i, i);
      const S d_q = sign * (d_log_det.array() * h.col(i).array() / slope.col(i).array()).sum();
      const S d_s = d_q * bend.slope_of_m(), d_r = d_moved.col(i).dot(t.col(i));
      gradient.b[i] += d_a.col(i).sum();
      gradient.r(i, i) += d_r * bend.slope_of_m() + d_s * w;  // dR_ii/du = m'(s)
      gradient.w(i, i) += d_a.col(i).dot(y.col(i)) + d_r * u * (u / (bend.root * (1 + bend.root))) + d_s * u;
    }

    Matrix<S>& d_q = cache.d_q;  // z^T d_y + d_x^T moved, where d_x of the inverse is d_z + d_y Q^T
    d_q.setZero(dim(), count());
    add_transposed_product(d_q, z, d_y);
    add_transposed_product(d_q, d_out, moved);
    if (sign < 0) {
      cache.small.setZero(count(), count());
      add_transposed_product(cache.small, d_y, moved);
      add_product(d_q, cache.q, cache.small);
    }
    add_reflection_gradient(gradient.vectors, cache);
  }

  // Q_k = H_k Q_{k+1} with Q = Q_1: reflecting again gives Q_{k+1} and its cotangent. With e = v / |v|, l = Q_{k+1}^T e
  // and r = d_Q_k^T e, d_v = -2 / |v| (d_Q_k l + Q_{k+1} r), made orthogonal to v.
  void add_reflection_gradient(Matrix<S>& gradient, Cache& cache) const {
    Matrix<S>&q = cache.part, &d_q = cache.d_q;
    q = cache.q;
    for (Index k = 0; k < count(); ++k) {
      const auto v = parameters_.vectors.col(k);
      const S factor = S(2) / v.squaredNorm();
      reflect(v, q, cache.left);
      cache.left.noalias() = q.transpose() * v;
      cache.right.resize(count());
      cache.right.noalias() = d_q.transpose() * v;
      cache.d_vector.resize(dim());
      cache.d_vector.noalias() = d_q * cache.left;
      cache.d_vector.noalias() += q * cache.right;
      for (int pass = 0; pass < 2; ++pass)  // the second one removes what the rounding of the first has left
        cache.d_vector -= S(0.5) * factor * v.dot(cache.d_vector) * v;
      gradient.col(k) -= factor * cache.d_vector;
      reflect(v, d_q, cache.left);
    }
  }

  Parameters parameters_;
};

}  // namespace rhei
