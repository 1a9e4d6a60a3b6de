// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The parts of a matrix product: column-major panels, and Eigen's kernel for packed blocks of them. The kernel is used
/// by itself because Eigen's expression c += a * b compiles every other kind of product beside it (several seconds in
/// each file that includes this), takes packed blocks from the heap, and starts threads under OpenMP; and because it
/// need not read what it adds to nor write the bare sum: it can begin with a row, such as the bias, and end with ReLU.

#include <algorithm>
#include <rhei/core/types.hpp>
#include <rhei/nn/activation.hpp>

namespace rhei::detail {

/// A column-major block: columns of `rows` contiguous values, `stride` apart.
template <class S>
struct Panel {
  S* data;
  Index rows, cols, stride;

  [[nodiscard]] S* at(Index row, Index col) const { return data + row + col * stride; }
  [[nodiscard]] Panel columns(Index first, Index count) const { return {at(0, first), rows, count, stride}; }
};

/// What a product is added to: what is there (no values), or in each row the same values, `step` apart.
template <class S>
struct Start {
  const S* values = nullptr;
  Index step = 1;

  /// Zeros.
  [[nodiscard]] static Start zero() {
    static constexpr S value = 0;
    return {&value, 0};
  }
  [[nodiscard]] S at(Index col) const { return values[col * step]; }
  [[nodiscard]] Start from(Index col) const { return {values ? values + col * step : nullptr, step}; }
};

/// Writes where a product begins, if not with what is there.
template <Real S>
void begin_product(Panel<S> c, Start<S> start) {
  if (!start.values) return;
  const S* value = start.values;
  S* column = c.data;
  if (c.rows == 1 && c.stride == 1 && start.step == 1)
    std::copy_n(value, c.cols, column);
  else if (c.rows < 8)  // fill_n would take longer to begin than to fill
    for (Index j = 0; j < c.cols; ++j, column += c.stride, value += start.step)
      for (Index i = 0; i < c.rows; ++i) column[i] = *value;
  else
    for (Index j = 0; j < c.cols; ++j, column += c.stride, value += start.step) std::fill_n(column, c.rows, *value);
}

/// What becomes of a complete product: nothing, ReLU, or the pullback of ReLU.
template <class S>
struct Finish {
  bool relu = false;
  const S* relu_output = nullptr;  ///< where this is not above 0, the derivative is 0
  Index stride = 0;                ///< of relu_output

  [[nodiscard]] bool is_needed() const { return relu || relu_output; }
  [[nodiscard]] Finish from(Index row, Index col) const {
    return {relu, relu_output ? relu_output + row + col * stride : nullptr, stride};
  }
};

/// Finishes a product that was made without.
template <Real S>
void finish_product(Panel<S> c, Finish<S> finish) {
  if (!finish.is_needed()) return;
  const bool is_one_run = c.stride == c.rows && (finish.relu || finish.stride == c.rows);
  const Index runs = is_one_run ? 1 : c.cols, size = is_one_run ? c.rows * c.cols : c.rows;
  for (Index run = 0; run < runs; ++run) {
    S* const to = c.at(0, run);
    if (finish.relu)
      elementwise(
          size, [](Lanes<S> x) { return activations::Relu::value(x); }, to, to);
    else
      elementwise(
          size, [](Lanes<S> d, Lanes<S> y) { return select(Lanes<S>(0) < y, d, S(0)); }, to, to,
          finish.relu_output + run * finish.stride);
  }
}

/// What the kernel writes to, as it asks for it: in place of Eigen's blas_data_mapper, which reads what is there and
/// writes the sum.
template <Real S>
class Target {
 public:
  /// Of one column.
  class LinearMapper {
   public:
    LinearMapper(S* data, const S* start, Finish<S> finish) : data_(data), start_(start), finish_(finish) {}
    void prefetch(Index i) const { Eigen::internal::prefetch(data_ + i); }
    template <class Packet>
    [[nodiscard]] Packet loadPacket(Index i) const {
      return start_ ? Eigen::internal::pset1<Packet>(*start_) : Eigen::internal::ploadu<Packet>(data_ + i);
    }
    template <class Packet>
    void storePacket(Index i, Packet packet) const {
      namespace e = Eigen::internal;
      const Packet zero = e::pset1<Packet>(S(0));
      if (finish_.relu) packet = e::pandnot(packet, e::pcmp_lt(packet, zero));
      if (finish_.relu_output) packet = e::pand(packet, e::pcmp_lt(zero, e::ploadu<Packet>(finish_.relu_output + i)));
      e::pstoreu(data_ + i, packet);
    }

   private:
    S* data_;
    const S* start_;
    Finish<S> finish_;
  };

  /// One value, to be added to.
  struct Element {
    S& value;
    S before;
    Finish<S> finish;
    void operator+=(S more) const {
      value = before + more;
      finish_product(Panel<S>{&value, 1, 1, 1}, finish);
    }
  };

  Target(S* data, Index stride, Start<S> start, Finish<S> finish = {})
      : data_(data), stride_(stride), start_(start), finish_(finish) {}

  [[nodiscard]] LinearMapper getLinearMapper(Index i, Index j) const {
    return {at(i, j), start_.values ? start_.values + j * start_.step : nullptr, finish_.from(i, j)};
  }
  [[nodiscard]] Element operator()(Index i, Index j) const {
    S& value = *at(i, j);
    return {value, start_.values ? start_.at(j) : value, finish_.from(i, j)};
  }
  /// Row i from column j on, one value a column.
  template <class Packet>
  [[nodiscard]] Packet gatherPacket(Index i, Index j) const {
    return start_.values ? Eigen::internal::pgather<S, Packet>(start_.values + j * start_.step, start_.step)
                         : Eigen::internal::pgather<S, Packet>(at(i, j), stride_);
  }
  template <class Packet>
  void scatterPacket(Index i, Index j, const Packet& packet) const {
    Eigen::internal::pscatter<S, Packet>(at(i, j), packet, stride_);
    finish_product(Panel<S>{at(i, j), 1, Eigen::internal::unpacket_traits<Packet>::size, stride_}, finish_.from(i, j));
  }

 private:
  [[nodiscard]] S* at(Index i, Index j) const { return data_ + i + j * stride_; }

  S* data_;
  Index stride_;
  Start<S> start_;
  Finish<S> finish_;
};

/// Packing and multiplying (Goto & van de Geijn 2008, Anatomy of high-performance matrix multiplication).
template <Real S>
struct ProductKernel {
  using Traits = Eigen::internal::gebp_traits<S, S>;
  template <int order>
  using Source = Eigen::internal::const_blas_data_mapper<S, Index, order>;
  template <int order>
  using PackLeft = Eigen::internal::gemm_pack_lhs<S, Index, Source<order>, Traits::mr, Traits::LhsProgress,
                                                  typename Traits::LhsPacket4Packing, order>;
  template <int order>
  using PackRight = Eigen::internal::gemm_pack_rhs<S, Index, Source<order>, Traits::nr, order>;
  template <class To>
  using Multiply = Eigen::internal::gebp_kernel<S, S, Index, To, Traits::mr, Traits::nr, false, false>;
  using Plain = Eigen::internal::blas_data_mapper<S, Index, Eigen::ColMajor, Eigen::Unaligned, 1>;

  /// c = finish(start + left * right) of packed blocks; the rest as Eigen's kernel has it.
  static void multiply(S* c, Index stride, Start<S> start, Finish<S> finish, const S* left, const S* right, Index rows,
                       Index depth, Index cols, Index left_stride = -1, Index right_stride = -1,
                       Index left_offset = 0) {
    if (start.values || finish.is_needed())
      Multiply<Target<S>>()({c, stride, start, finish}, left, right, rows, depth, cols, S(1), left_stride, right_stride,
                            left_offset);
    else  // small products of little depth would feel the questions that Target asks
      Multiply<Plain>()({c, stride}, left, right, rows, depth, cols, S(1), left_stride, right_stride, left_offset);
  }

  static constexpr Index max_depth = 512 / static_cast<Index>(sizeof(S));  ///< of a packed block
};

}  // namespace rhei::detail
