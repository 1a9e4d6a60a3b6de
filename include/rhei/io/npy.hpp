// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// NumPy's array files (NEP 1): versions 1.0 to 3.0, matrices and vectors of little-endian numbers.
///
/// A file is a magic word, a version, the length of a header, the header (a Python dict literal with the keys descr,
/// fortran_order and shape) and the values.

#include <bit>
#include <cstdint>
#include <limits>
#include <rhei/io/file.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace rhei {

static_assert(std::endian::native == std::endian::little,
              "rhei reads and writes arrays on little-endian machines only");

namespace detail {

inline constexpr std::string_view kNpyMagic = "\x93NUMPY";

/// How NumPy calls a little-endian T.
template <class T>
constexpr std::string_view npy_name() {
  constexpr std::string_view names[2][9] = {{"", "|u1", "<u2", "", "<u4", "", "", "", "<u8"},
                                            {"", "|i1", "<i2", "", "<i4", "", "", "", "<i8"}};
  if constexpr (std::is_floating_point_v<T>) return sizeof(T) == 4 ? "<f4" : "<f8";
  return names[std::is_signed_v<T>][sizeof(T)];
}

/// What precedes the values, and the values as bytes.
struct NpyArray {
  std::string type;
  bool column_major = false;
  std::vector<Index> shape;
  std::string_view bytes;
  std::string_view source;

  [[nodiscard]] Index rows() const { return shape[0]; }
  [[nodiscard]] Index cols() const { return shape.size() == 2 ? shape[1] : 1; }
};

/// Parser of the header.
class NpyHeader {
 public:
  NpyHeader(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  NpyArray parse() {
    NpyArray array;
    array.source = source_;
    bool has_type = false, has_order = false, has_shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string key = parse_string("a key in quotes");
      expect(':');
      const auto once = [&](bool& has) {
        if (has) fail("the key " + in_quotes(key) + " came before");
        has = true;
      };
      if (key == "descr") {
        once(has_type);
        array.type = parse_string("a type in quotes (structured types are not read)");
      } else if (key == "fortran_order") {
        once(has_order);
        array.column_major = accept("True");
        if (!array.column_major && !accept("False")) fail_here("True or False");
      } else if (key == "shape") {
        once(has_shape);
        array.shape = parse_shape();
      } else {
        fail("found the key " + in_quotes(key) + ", expected descr, fortran_order or shape");
      }
      if (accept('}')) break;
      expect(',');
    }
    skip_spaces();
    if (at_ < text_.size()) fail_here("nothing but spaces after the dict");
    if (!has_type || !has_order || !has_shape)
      fail(std::string("has no ") + (!has_type ? "descr" : !has_order ? "fortran_order" : "shape"));
    return array;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw_file(source_, "NPY header: " + what); }
  [[noreturn]] void fail_here(const std::string& expected) const {
    fail("found " + (at_ < text_.size() ? in_quotes(text_.substr(at_, 10)) : std::string("the end")) + " at byte " +
         std::to_string(at_) + " of the header, expected " + expected);
  }
  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(std::string_view word) {
    skip_spaces();
    const bool yes = text_.substr(at_).starts_with(word);
    at_ += yes ? word.size() : 0;
    return yes;
  }
  bool accept(char c) { return accept(std::string_view(&c, 1)); }
  void expect(char c) {
    if (!accept(c)) fail_here(std::string("'") + c + "'");
  }
  std::string parse_string(const char* expected) {
    skip_spaces();
    const char quote = accept('\'') ? '\'' : accept('"') ? '"' : '\0';
    const auto end = quote ? text_.find_first_of(std::string{quote, '\\', '\n'}, at_) : std::string_view::npos;
    if (end == std::string_view::npos || text_[end] != quote) fail_here(expected);
    std::string value(text_.substr(at_, end - at_));
    at_ = end + 1;
    return value;
  }
  std::vector<Index> parse_shape() {
    std::vector<Index> shape;
    expect('(');
    bool comma = true;
    while (!accept(')')) {
      if (!comma) fail_here("',' or ')'");
      Index extent = 0;
      const std::size_t start = at_;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
        if (__builtin_mul_overflow(extent, 10, &extent) || __builtin_add_overflow(extent, text_[at_] - '0', &extent))
          fail("a size in shape is too large");
      if (at_ == start) fail_here("a size, an integer that is not negative");
      shape.push_back(extent);
      comma = accept(',');
    }
    if (shape.size() == 1 && !comma) fail("shape is a number in brackets, expected a tuple");
    return shape;
  }

  std::string_view text_;
  std::string_view source_;
  std::size_t at_ = 0;
};

inline std::string npy_shape_text(const std::vector<Index>& shape) {
  std::string text = "(";
  for (const Index extent : shape) text += std::to_string(extent) + ", ";
  return text + ")";
}

/// Splits a file and checks all but the type and the number of bytes.
inline NpyArray split_npy(std::string_view file, std::string_view source) {
  const auto truncated = [&](std::size_t expected) {
    throw_file(source, "has " + std::to_string(file.size()) + " bytes, expected at least " + std::to_string(expected) +
                           ": the file is truncated");
  };
  if (!file.starts_with(kNpyMagic)) throw_file(source, "does not begin with the magic word of NPY files");
  if (file.size() < 12) truncated(12);
  const auto version = static_cast<unsigned char>(file[6]);
  if (version < 1 || version > 3 || file[7] != 0)
    throw_file(source, "is of NPY version " + std::to_string(version) + "." +
                           std::to_string(static_cast<unsigned char>(file[7])) + ", expected 1.0, 2.0 or 3.0");
  const std::size_t start = version == 1 ? 10 : 12;
  const std::size_t length = version == 1 ? load<std::uint16_t>(&file[8]) : load<std::uint32_t>(&file[8]);
  if (length > file.size() - start) truncated(start + length);
  NpyArray array = NpyHeader(file.substr(start, length), source).parse();
  if (array.shape.size() != 1 && array.shape.size() != 2)
    throw_file(source, "has the shape " + npy_shape_text(array.shape) + ", expected one or two dimensions");
  array.bytes = file.substr(start + length);
  return array;
}

/// Whether a double holds the integer exactly.
template <class T>
constexpr bool is_exact_double(T value) {
  if constexpr (std::is_integral_v<T> && sizeof(T) == 8) {
    constexpr T limit = T{1} << std::numeric_limits<double>::digits;
    return value <= limit && (std::is_unsigned_v<T> || value >= T{} - limit);
  }
  return true;
}

/// The values of a file whose type is T.
template <class T, Real S>
Matrix<S> npy_matrix(const NpyArray& array) {
  std::uint64_t expected = 0;
  if (!array_bytes(array.shape, sizeof(T), expected))
    throw_file(array.source, "has the shape " + npy_shape_text(array.shape) + ", which is too large");
  if (array.bytes.size() != expected)
    throw_file(array.source,
               "has " + std::to_string(array.bytes.size()) + " bytes of values, expected " + std::to_string(expected) +
                   " for the shape " + npy_shape_text(array.shape) + " of type " + array.type +
                   (array.bytes.size() < expected ? ": the file is truncated" : ": the file is too long"));
  Matrix<S> values(array.rows(), array.cols());
  if (values.size() == 0) return values;  // cols() alone may be huge
  const Index row_step = array.column_major ? 1 : array.cols();
  const Index col_step = array.column_major ? array.rows() : 1;
  for (Index j = 0; j < values.cols(); ++j)
    for (Index i = 0; i < values.rows(); ++i) {
      const T value = load<T>(array.bytes.data() + static_cast<std::size_t>(i * row_step + j * col_step) * sizeof(T));
      if (!is_exact_double(value))
        throw_file(array.source, "row " + std::to_string(i) + ", column " + std::to_string(j) + " (from 0): found " +
                                     std::to_string(value) + ", which a double does not hold exactly (2^53)");
      values(i, j) = static_cast<S>(value);
    }
  return values;
}

}  // namespace detail

/// Reads the bytes of an NPY file as a matrix of doubles; one dimension of n values gives n x 1.
///
/// Types: <f4, <f8, |i1, |u1, <i2, <u2, <i4, <u4, <i8, <u8; both orders. Throws std::runtime_error for any other type
/// (big-endian ones too), a malformed header, a size that is not what the shape says, and an integer beyond 2^53.
/// `source` is how messages call the bytes.
inline Matrix<double> parse_npy(std::string_view bytes, std::string_view source = "NPY data") {
  using Reader = Matrix<double> (*)(const detail::NpyArray&);
  struct Type {
    std::string_view name;
    Reader read;
  };
  constexpr auto type = []<class T>(T) { return Type{detail::npy_name<T>(), &detail::npy_matrix<T, double>}; };
  static constexpr Type types[] = {
      type(float{}),         type(double{}),       type(std::int8_t{}),   type(std::uint8_t{}), type(std::int16_t{}),
      type(std::uint16_t{}), type(std::int32_t{}), type(std::uint32_t{}), type(std::int64_t{}), type(std::uint64_t{})};
  const detail::NpyArray array = detail::split_npy(bytes, source);
  for (const auto& [name, read] : types)
    if (array.type == name) return read(array);
  detail::throw_file(source, "has values of type " + detail::in_quotes(array.type) +
                                 ", expected little-endian floats of 4 or 8 bytes or integers of 1, 2, 4 or 8");
}

/// Reads an NPY file as a matrix of doubles; see parse_npy().
inline Matrix<double> read_npy(const std::string& path) { return parse_npy(read_file(path), path); }

/// The same without any conversion, bit for bit: throws also when the type of the file is not S.
template <Real S>
Matrix<S> parse_npy_exactly(std::string_view bytes, std::string_view source = "NPY data") {
  const detail::NpyArray array = detail::split_npy(bytes, source);
  if (array.type != detail::npy_name<S>())
    detail::throw_file(source, "has values of type " + detail::in_quotes(array.type) + ", expected " +
                                   detail::in_quotes(detail::npy_name<S>()));
  return detail::npy_matrix<S, S>(array);
}

/// Reads an NPY file as parse_npy_exactly() does.
template <Real S>
Matrix<S> read_npy_exactly(const std::string& path) {
  return parse_npy_exactly<S>(read_file(path), path);
}

/// The bytes of an NPY file (version 1.0, two dimensions, fortran_order True: our memory as it is).
template <class Derived>
std::string format_npy(const Eigen::MatrixBase<Derived>& matrix) {
  using S = typename Derived::Scalar;
  static_assert(Real<S>);
  const Eigen::Ref<const Matrix<S>> m(matrix.derived());
  std::string header = "{'descr': '" + std::string(detail::npy_name<S>()) + "', 'fortran_order': True, 'shape': (" +
                       std::to_string(m.rows()) + ", " + std::to_string(m.cols()) + "), }";
  constexpr std::size_t alignment = 64, fixed = 10;  // the values begin at a multiple of 64, as the format asks
  header.resize((fixed + header.size() + alignment) / alignment * alignment - fixed - 1, ' ');
  header += '\n';
  std::string out(detail::kNpyMagic);
  out.append("\1\0", 2);
  const auto length = static_cast<std::uint16_t>(header.size());
  detail::append_bytes(out, &length, 1);
  out += header;
  for (Index j = 0; j < m.cols(); ++j) detail::append_bytes(out, m.col(j).data(), m.rows());
  return out;
}

/// Writes a matrix of float or double to an NPY file; see format_npy() and write_atomically().
template <class Derived>
void write_npy(const std::string& path, const Eigen::MatrixBase<Derived>& matrix) {
  write_atomically(path, format_npy(matrix));
}

}  // namespace rhei
