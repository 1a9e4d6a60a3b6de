// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// A trained rotation as a product of Householder reflections (Tomczak & Welling 2016, "Improving Variational
/// Auto-Encoders using Householder Flow"; Meng et al. 2020, "Gaussianization Flows", section 3.3).
///
///   inverse  Z = X Q        forward  X = Z Q^T        log|det| = 0
///   Q = H_1 H_2 ... H_K,    H_k = I - 2 v_k v_k^T / |v_k|^2
///
/// with samples as rows. With V = (v_1 ... v_K) (Schreiber & Van Loan 1989, the compact WY form, in which Joffrain et
/// al. 2006, ACM TOMS 32:169, write T by its inverse)
///
///   Q = I - V A^-1 V^T,     A = the part of V^T V above its diagonal + half of that diagonal
///
/// so that Z = X - C V^T with the coefficients C = X V A^-1. They are also what reflecting one after the other gives:
/// C_k = 2 <row before reflection k, v_k> / |v_k|^2. A few rows are reflected one after the other, 2 D K multiply-adds
/// each; a batch of n takes products of matrices, n K (2 D + K / 2) and once D K^2 / 2 for A. A batch with many more
/// rows than features is multiplied by Q itself, which is first found as I Q: n D^2.
///
/// Pullback: let <G, X Q> be the loss. With C = X V A^-1 and E = G V A^-T (what G Q^T = G - E V^T leaves over),
///
///   dX = G Q^T,     dV = V sym(C^T E) - X^T E - G^T C,    sym(M): the upper triangle of M, mirrored below
///
/// and the same with X and G, C and E exchanged for the product with Q^T. Since <G, X Q> = <X^T G, I Q>, X = I and X^T
/// G may take the places of X and G in dV, as they do where Q itself is at hand.

#include <rhei/core/layer.hpp>
#include <rhei/layers/detail/triangular.hpp>

namespace rhei {
namespace detail {

/// What an evaluation of a product of reflections needs, beside its vectors (D x K).
template <Real S>
struct ReflectionCache {
  RowVector<S> factors;          ///< K, 2 / |v_k|^2
  Matrix<S> a;                   ///< K x K, A; its diagonal is not read but taken from `factors`
  Buffer<S> minus_coefficients;  ///< n x K, -C of the evaluation
  Buffer<S> minus_d;             ///< n x K, -E of its pullback
  Matrix<S> sym;                 ///< K x K
  Matrix<S> d_vectors;           ///< D x K, what one pullback adds to the gradient
  Vector<S> row;                 ///< D
  Matrix<S> identity, rotation;  ///< D x D, I and Q where a batch is multiplied by Q itself
  Matrix<S> moment;              ///< D x D, X^T G there
};

/// Whether so many rows are reflected by products of matrices: where these cost less than A does.
inline bool reflects_together(Index rows, Index count) { return rows >= std::max<Index>(8, count / 16); }

/// Fills what follows from the vectors alone; to be called before a batch of so many rows is reflected.
template <Real S>
void prepare_reflections(const Matrix<S>& vectors, Index rows, ReflectionCache<S>& cache) {
  const Index count = vectors.cols();
  cache.factors.resize(count);
  for (Index k = 0; k < count; ++k) cache.factors[k] = S(2) / vectors.col(k).squaredNorm();
  if (!reflects_together(rows, count)) return;
  cache.a.setZero(count, count);
  add_triangle_gradient<Triangle::upper, S>(vectors, vectors, cache.a, 0, count);
}

/// out = in Q, or in Q^T where `transposed` (`out` may be null), and minus_coefficients = -in V A^-1, or -in V A^-T.
template <bool transposed, Real S>
void reflect(const Matrix<S>& vectors, ConstBatch<S> in, Batch<S>* out, Buffer<S>& minus_coefficients,
             ReflectionCache<S>& cache) {
  const Index rows = in.rows(), count = vectors.cols();
  Batch<S> minus_c = minus_coefficients.resize(rows, count);
  if (reflects_together(rows, count)) {
    set_product(minus_c, in, vectors);
    solve_triangle<transposed ? Triangle::lower : Triangle::upper, transposed>(minus_c, cache.a, cache.factors.data());
    if (out) *out = in;
    if (out) add_product_transposed(*out, minus_c, vectors);
    return;
  }
  Vector<S>& row = cache.row;
  for (Index i = 0; i < rows; ++i) {
    row = in.row(i);
    for (Index j = 0; j < count; ++j) {
      const Index k = transposed ? count - 1 - j : j;
      minus_c(i, k) = -cache.factors[k] * vectors.col(k).dot(row);
      row += minus_c(i, k) * vectors.col(k);
    }
    if (out) out->row(i) = row.transpose();
  }
}

/// Adds d <right, left Q> / dV to `gradient`, given -left V A^-1 and -right V A^-T. Where its large terms cancel it is
/// made orthogonal to each vector, as it is in exact arithmetic; the diagonal of sym(), a multiple of v_k, is left out.
template <Real S>
void add_reflection_gradient(const Matrix<S>& vectors, ConstBatch<S> left, ConstBatch<S> minus_left,
                             ConstBatch<S> right, ConstBatch<S> minus_right, Matrix<S>& gradient,
                             ReflectionCache<S>& cache) {
  const Index count = vectors.cols();
  cache.sym.setZero(count, count);
  add_triangle_gradient<Triangle::upper, S>(minus_left, minus_right, cache.sym, 0, count);
  for (Index k = 0; k < count; ++k) cache.sym.row(k).head(k) = cache.sym.col(k).head(k).transpose();
  Matrix<S>& d_vectors = cache.d_vectors;
  d_vectors.resize(vectors.rows(), count);
  set_product(d_vectors, vectors, cache.sym);
  add_transposed_product(d_vectors, left, minus_right);
  add_transposed_product(d_vectors, right, minus_left);
  for (Index k = 0; k < count; ++k) {
    for (int pass = 0; pass < 2; ++pass)  // the second one removes what the rounding of the first has left
      d_vectors.col(k) -= S(0.5) * cache.factors[k] * vectors.col(k).dot(d_vectors.col(k)) * vectors.col(k);
    gradient.col(k) += d_vectors.col(k);
  }
}

}  // namespace detail

/// A product of `count` trained reflections of `dim` features. (With D of them it can be any orthogonal matrix of
/// determinant (-1)^D.) Only the directions of the vectors matter: the gradient is orthogonal to each. A vector of
/// zeros has none, and gives NaN.
template <Real S>
class Householder {
 public:
  using Scalar = S;
  static constexpr std::string_view type = "householder";

  struct Parameters {
    Matrix<S> vectors;  ///< D x K, v_1 ... v_K of any length but zero

    template <class Self, class F>
    static void each_parameter(Self& self, F&& f) {
      f("vectors", self.vectors);
    }
  };
  using Gradient = Parameters;
  using Cache = detail::ReflectionCache<S>;

  /// Normal vectors, as in Gaussianization Flows: each direction is as likely as any other.
  /// \throws std::invalid_argument if dim < 1 or count < 1.
  Householder(Index dim, Index count, Rng& rng) : Householder(dim, count) { rng.fill_normal(parameters_.vectors); }
  /// As many reflections as there are features.
  Householder(Index dim, Rng& rng) : Householder(dim, dim, rng) {}

  [[nodiscard]] Index dim() const { return parameters_.vectors.rows(); }
  [[nodiscard]] Index context_dim() const { return 0; }
  /// The number of reflections.
  [[nodiscard]] Index count() const { return parameters_.vectors.cols(); }
  [[nodiscard]] static constexpr Traits traits() { return {.affine = true}; }
  [[nodiscard]] Gradient make_gradient() const { return zeros_like(parameters_); }
  [[nodiscard]] Parameters& parameters() { return parameters_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }

  [[nodiscard]] Options options() const { return Options(type).set("dim", dim()).set("count", count()); }
  static Householder from_options(const Options& options) {
    const Index dim = options.get_size("dim", 1), count = options.get_size("count", 1);
    options.check_tensor(dim, count);
    return Householder(dim, count);
  }

  /// X = Z Q^T; log|det| = 0.
  void forward(const Call<S>& call, ConstBatch<S> z, Batch<S> x, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Householder::forward", *this, call, z, x, log_det.size());
    evaluate<true>(z, x, cache);
  }

  /// Z = X Q; log|det| = 0.
  void inverse(const Call<S>& call, ConstBatch<S> x, Batch<S> z, Values<S> log_det, Cache& cache) const {
    detail::check_evaluation("Householder::inverse", *this, call, x, z, log_det.size());
    evaluate<false>(x, z, cache);
  }

  /// d_Z = d_X Q; the gradient as in the file comment, for the product with Q^T.
  void forward_pullback(const Call<S>&, ConstBatch<S> z, ConstBatch<S>, Cache& cache, ConstBatch<S> d_x, ConstValues<S>,
                        Batch<S>* d_z, Batch<S>*, Gradient* gradient) const {
    pull_back<true>(z, d_x, d_z, gradient, cache);
  }

  /// d_X = d_Z Q^T; the gradient as in the file comment.
  void inverse_pullback(const Call<S>&, ConstBatch<S> x, ConstBatch<S>, Cache& cache, ConstBatch<S> d_z, ConstValues<S>,
                        Batch<S>* d_x, Batch<S>*, Gradient* gradient) const {
    pull_back<false>(x, d_z, d_x, gradient, cache);
  }

  /// The same layer in another scalar.
  template <Real T>
  [[nodiscard]] Householder<T> cast() const {
    return cast_to<Householder<T>>(*this);
  }

  template <class Self, class F>
  static void each_parameter(Self& self, F&& f) {
    Parameters::each_parameter(self.parameters_, f);
  }

 private:
  Householder(Index dim, Index count) {
    detail::check_value("Householder", "dim", dim, dim >= 1, "at least 1");
    detail::check_value("Householder", "count", count, count >= 1, "at least 1");
    parameters_.vectors = Matrix<S>::Ones(dim, count);
  }

  [[nodiscard]] const Matrix<S>& vectors() const { return parameters_.vectors; }
  /// Whether Q itself is less work for so many rows.
  [[nodiscard]] bool multiplies_out(Index rows) const { return rows >= 2 * dim() && 2 * count() >= dim(); }

  /// out = in Q, or in Q^T where `transposed`.
  template <bool transposed>
  void evaluate(ConstBatch<S> in, Batch<S> out, Cache& cache) const {
    if (!multiplies_out(in.rows())) {
      detail::prepare_reflections(vectors(), in.rows(), cache);
      detail::reflect<transposed>(vectors(), in, &out, cache.minus_coefficients, cache);
      return;
    }
    cache.identity.setIdentity(dim(), dim());
    cache.rotation.resize(dim(), dim());
    Batch<S> rotation(cache.rotation);
    detail::prepare_reflections(vectors(), dim(), cache);
    detail::reflect<false, S>(vectors(), cache.identity, &rotation, cache.minus_coefficients, cache);
    if constexpr (transposed)
      set_product_transposed(out, in, rotation);
    else
      set_product(out, in, rotation);
  }

  /// The pullback of `evaluate`.
  template <bool transposed>
  void pull_back(ConstBatch<S> in, ConstBatch<S> d_out, Batch<S>* d_in, Gradient* gradient, Cache& cache) const {
    if (!d_in && !gradient) return;
    const ConstBatch<S> left = transposed ? d_out : in, right = transposed ? in : d_out;
    if (!multiplies_out(in.rows())) {
      detail::reflect<!transposed>(vectors(), d_out, d_in, cache.minus_d, cache);
      const Buffer<S>& minus_left = transposed ? cache.minus_d : cache.minus_coefficients;
      const Buffer<S>& minus_right = transposed ? cache.minus_coefficients : cache.minus_d;
      if (gradient)
        detail::add_reflection_gradient<S>(vectors(), left, minus_left.view(), right, minus_right.view(),
                                           gradient->vectors, cache);
      return;
    }
    if (d_in && transposed) set_product(*d_in, d_out, cache.rotation);
    if (d_in && !transposed) set_product_transposed(*d_in, d_out, cache.rotation);
    if (!gradient) return;
    cache.moment.setZero(dim(), dim());
    add_transposed_product(cache.moment, left, right);
    detail::reflect<true, S>(vectors(), cache.moment, nullptr, cache.minus_d, cache);
    detail::add_reflection_gradient<S>(vectors(), cache.identity, cache.minus_coefficients.view(), cache.moment,
                                       cache.minus_d.view(), gradient->vectors, cache);
  }

  Parameters parameters_;
};

}  // namespace rhei
