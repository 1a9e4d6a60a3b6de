// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// The safetensors container: named tensors of any shape and a map of strings, in one file.
///
/// A file is the length of a header (8 bytes), the header (JSON: dtype, shape and data_offsets of each tensor) and the
/// values, row-major and little-endian (https://huggingface.co/docs/safetensors). Nothing in it is believed: lengths,
/// products and offsets are checked against the size of the file before anything is allocated for them.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <rhei/core/errors.hpp>
#include <rhei/io/file.hpp>
#include <rhei/io/json.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace rhei {

static_assert(std::endian::native == std::endian::little,
              "rhei reads and writes tensors on little-endian machines only");

/// The types of elements that are read. Tensors made here are f32, f64 or i64.
enum class Dtype { boolean, u8, i8, u16, i16, f16, bf16, u32, i32, f32, u64, i64, f64 };

namespace detail {

/// Elements that C++20 has no type for.
struct Boolean {
  std::uint8_t byte;
};
struct Float16 {
  std::uint16_t bits;
  explicit operator float() const {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float magnitude = exponent == 31  ? (fraction ? std::numeric_limits<float>::quiet_NaN() : HUGE_VALF)
                            : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                            : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return bits >> 15 ? -magnitude : magnitude;
  }
};
struct Bfloat16 {
  std::uint16_t bits;
  explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

template <class... T>
struct TypeList {};
/// The elements in the order of Dtype.
using Elements = TypeList<Boolean, std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, Float16, Bfloat16,
                          std::uint32_t, std::int32_t, float, std::uint64_t, std::int64_t, double>;

struct DtypeInfo {
  std::string_view name;
  std::size_t size;
};
inline constexpr DtypeInfo kDtypes[] = {{"BOOL", 1}, {"U8", 1},   {"I8", 1},  {"U16", 2}, {"I16", 2},
                                        {"F16", 2},  {"BF16", 2}, {"U32", 4}, {"I32", 4}, {"F32", 4},
                                        {"U64", 8},  {"I64", 8},  {"F64", 8}};

/// The name of a tensor in a message. Those of modules within modules are long, and tell at their end what they are.
inline std::string name_in_quotes(std::string_view name) { return in_quotes(name, 200); }

inline const DtypeInfo& info(Dtype dtype) { return kDtypes[static_cast<std::size_t>(dtype)]; }

template <class T>
constexpr Dtype dtype_of() {
  return std::same_as<T, float> ? Dtype::f32 : std::same_as<T, double> ? Dtype::f64 : Dtype::i64;
}

}  // namespace detail

/// A named array of numbers: row-major little-endian bytes.
struct Tensor {
  std::string name;          ///< unique in a file
  Dtype dtype = Dtype::f32;  ///< of each number
  std::vector<Index> shape;  ///< empty for a single number
  std::string bytes;         ///< the numbers themselves

  /// rows x cols, as S
  template <class Derived>
  static Tensor from_matrix(std::string name, const Eigen::MatrixBase<Derived>& matrix) {
    using S = typename Derived::Scalar;
    const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = matrix;
    return from_values<S>(std::move(name), {rows.data(), static_cast<std::size_t>(rows.size())},
                          {rows.rows(), rows.cols()});
  }
  /// One dimension, as S (of row vectors, too)
  template <class Derived>
  static Tensor from_vector(std::string name, const Eigen::MatrixBase<Derived>& vector) {
    static_assert(Derived::IsVectorAtCompileTime);
    using S = typename Derived::Scalar;
    const Eigen::Matrix<S, Derived::RowsAtCompileTime, Derived::ColsAtCompileTime,
                        Derived::RowsAtCompileTime == 1 ? Eigen::RowMajor : Eigen::ColMajor>
        values = vector;
    return from_values<S>(std::move(name), {values.data(), static_cast<std::size_t>(values.size())}, {values.size()});
  }
  /// float, double or std::int64_t values in row-major order of any shape. Throws std::invalid_argument if the shape
  /// is not one of so many values.
  template <class T>
  static Tensor from_values(std::string name, std::span<const T> values, std::vector<Index> shape) {
    static_assert(Real<T> || std::same_as<T, std::int64_t>);
    Tensor tensor{std::move(name), detail::dtype_of<T>(), std::move(shape), {}};
    detail::append_bytes(tensor.bytes, values.data(), static_cast<Index>(values.size()));
    tensor.check("Tensor::from_values");
    return tensor;
  }

  /// The values of any shape in row-major order, as float, double or std::int64_t.
  ///
  /// Integers and booleans must be held exactly; floating-point values may be rounded but not overflow, and are not
  /// given as integers. Throws std::runtime_error with the name of the tensor otherwise.
  template <class T>
  [[nodiscard]] std::vector<T> to_values() const {
    static_assert(Real<T> || std::same_as<T, std::int64_t>);
    std::vector<T> values(bytes.size() / detail::info(dtype).size);
    readers<T>(detail::Elements{})[static_cast<std::size_t>(dtype)](*this, values.data());
    return values;
  }
  /// A tensor of two dimensions as float or double; see to_values().
  template <Real S>
  [[nodiscard]] Matrix<S> to_matrix() const {
    check_dimensions(2);
    const std::vector<S> values = to_values<S>();
    Matrix<S> matrix(shape[0], shape[1]);
    using RowMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    if (!values.empty()) matrix = Eigen::Map<const RowMajor>(values.data(), shape[0], shape[1]);
    return matrix;
  }
  /// A tensor of one dimension as float or double; see to_values().
  template <Real S>
  [[nodiscard]] Vector<S> to_vector() const {
    check_dimensions(1);
    const std::vector<S> values = to_values<S>();
    return Eigen::Map<const Vector<S>>(values.data(), static_cast<Index>(values.size()));
  }
  /// A tensor of integers or booleans of any shape, in row-major order; see to_values().
  [[nodiscard]] std::vector<std::int64_t> to_int64() const { return to_values<std::int64_t>(); }

  /// Throws std::invalid_argument unless the shape has no negative size and the bytes are as many as it says.
  void check(std::string_view where) const {
    std::uint64_t expected = 0;
    const bool sane = std::all_of(shape.begin(), shape.end(), [](Index extent) { return extent >= 0; }) &&
                      detail::array_bytes(shape, detail::info(dtype).size, expected);
    if (!sane || bytes.size() != expected)
      detail::throw_invalid(where, what() + " has the shape " + shape_text() + " and " + std::to_string(bytes.size()) +
                                       " bytes, expected " + (sane ? std::to_string(expected) : "sane sizes"));
  }
  /// Its shape for messages: "[3, 4]".
  [[nodiscard]] std::string shape_text() const {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
  }

 private:
  [[nodiscard]] std::string what() const { return "tensor " + detail::name_in_quotes(name); }

  void check_dimensions(std::size_t count) const {
    if (shape.size() != count)
      throw std::runtime_error(what() + " has the shape " + shape_text() + ", expected " + std::to_string(count) +
                               (count == 1 ? " dimension" : " dimensions"));
  }

  template <class T>
  using Reader = void (*)(const Tensor&, T*);
  template <class T, class... E>
  static constexpr std::array<Reader<T>, sizeof...(E)> readers(detail::TypeList<E...>) {
    return {&Tensor::read<T, E>...};
  }
  template <class T, class E>
  static void read(const Tensor& tensor, T* out) {
    const std::size_t count = tensor.bytes.size() / sizeof(E);
    if constexpr (std::same_as<T, E>) {
      if (count > 0) std::memcpy(out, tensor.bytes.data(), tensor.bytes.size());
    } else {
      for (std::size_t i = 0; i < count; ++i)
        out[i] = tensor.convert<T>(detail::load<E>(tensor.bytes.data() + i * sizeof(E)), i);
    }
  }
  template <class T, class E>
  T convert(E value, std::size_t position) const {
    if constexpr (std::same_as<E, detail::Boolean>) {
      if (value.byte > 1) refuse(std::to_string(value.byte), position, "0 or 1");
      return static_cast<T>(value.byte);
    } else if constexpr (std::integral<E> && std::integral<T>) {
      if (!std::in_range<T>(value)) refuse(std::to_string(value), position, "at most 2^63 - 1");
      return static_cast<T>(value);
    } else if constexpr (std::integral<E>) {
      constexpr std::int64_t limit = std::int64_t{1} << std::numeric_limits<T>::digits;
      if (std::cmp_greater(value, limit) || std::cmp_less(value, -limit))
        refuse(std::to_string(value), position, "an integer that " + type_name<T>() + " holds exactly");
      return static_cast<T>(value);
    } else if constexpr (std::integral<T>) {
      throw std::runtime_error(what() + " is of type " + std::string(detail::info(dtype).name) + ", expected integers");
    } else if constexpr (std::same_as<E, double>) {
      if (std::isfinite(value) && std::abs(value) > static_cast<double>(std::numeric_limits<T>::max()))
        refuse(std::to_string(value), position, "a number in the range of float");
      return static_cast<T>(value);
    } else {
      return static_cast<T>(static_cast<float>(value));
    }
  }
  template <class T>
  static std::string type_name() {
    return std::same_as<T, float> ? "float" : "double";
  }
  [[noreturn]] void refuse(const std::string& value, std::size_t position, const std::string& expected) const {
    throw std::runtime_error(what() + " holds " + value + " at position " + std::to_string(position) + ", expected " +
                             expected);
  }
};

/// The contents of a safetensors file: tensors in order, each with a name of its own, and a map of strings.
class SafeTensors {
 public:
  std::map<std::string, std::string> metadata;  ///< texts by key: "__metadata__" of the file

  /// Appends a tensor. Throws std::invalid_argument if it is not consistent, if its name is taken, not UTF-8 or
  /// __metadata__, which the format keeps for itself.
  void add(Tensor tensor) {
    tensor.check("SafeTensors::add");
    if (tensor.name == "__metadata__" || detail::find_invalid_utf8(tensor.name) != std::string::npos)
      detail::throw_invalid("SafeTensors::add",
                            "name is " + detail::in_quotes(tensor.name) + ", expected UTF-8 and not __metadata__");
    if (!index_.try_emplace(tensor.name, tensors_.size()).second)
      detail::throw_invalid("SafeTensors::add",
                            "name is " + detail::in_quotes(tensor.name) + ", expected one that was not added before");
    tensors_.push_back(std::move(tensor));
  }

  /// The number of tensors.
  [[nodiscard]] std::size_t size() const { return tensors_.size(); }
  /// The tensors in the order of the file.
  [[nodiscard]] auto begin() const { return tensors_.begin(); }
  /// Behind the last tensor.
  [[nodiscard]] auto end() const { return tensors_.end(); }
  /// Whether there is a tensor of this name.
  [[nodiscard]] bool contains(const std::string& name) const { return index_.count(name) > 0; }
  /// The tensor of this name; throws std::runtime_error if there is none.
  [[nodiscard]] const Tensor& at(const std::string& name) const {
    const auto found = index_.find(name);
    if (found == index_.end())
      throw std::runtime_error("no tensor is named " + detail::in_quotes(name) + " among the " +
                               std::to_string(size()));
    return tensors_[found->second];
  }

 private:
  std::vector<Tensor> tensors_;
  std::map<std::string, std::size_t> index_;
};

namespace detail {

inline constexpr std::uint64_t kMaxSafetensorsHeader = 100'000'000;  // as in the reference implementation

/// A tensor of a header without its values, and where these lie.
struct TensorEntry {
  Tensor tensor;
  std::uint64_t begin, end;
};

/// The tensor that a header describes; throws unless the description is whole and within `data_size` bytes.
inline TensorEntry parse_tensor_entry(const std::string& name, const Json& json, std::uint64_t data_size) {
  for (const auto& [key, value] : json.members("the entry"))
    if (key != "dtype" && key != "shape" && key != "data_offsets")
      throw std::runtime_error("found the key " + in_quotes(key) + ", expected dtype, shape and data_offsets");
  const auto dtype_name = json.get<std::string>("dtype");
  const auto* dtype = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                   [&](const DtypeInfo& known) { return known.name == dtype_name; });
  if (dtype == std::end(kDtypes)) throw std::runtime_error("dtype is " + in_quotes(dtype_name) + ", which is not read");

  const auto offsets = json.get<std::vector<std::uint64_t>>("data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_size)
    throw std::runtime_error("data_offsets are " + json.at("data_offsets").text().substr(0, 80) +
                             ", expected [begin, end] within the " + std::to_string(data_size) + " bytes of data");
  TensorEntry entry{
      {name, static_cast<Dtype>(dtype - kDtypes), json.get<std::vector<Index>>("shape"), {}}, offsets[0], offsets[1]};
  for (const Index extent : entry.tensor.shape)
    if (extent < 0) throw std::runtime_error("shape is " + entry.tensor.shape_text() + ", expected sizes >= 0");
  std::uint64_t bytes = 0;
  if (!array_bytes(entry.tensor.shape, dtype->size, bytes))
    throw std::runtime_error("shape is " + entry.tensor.shape_text() + ", which is too large");
  if (bytes != entry.end - entry.begin)
    throw std::runtime_error("shape " + entry.tensor.shape_text() + " of " + dtype_name + " is " +
                             std::to_string(bytes) + " bytes, data_offsets say " +
                             std::to_string(entry.end - entry.begin));
  return entry;
}

/// The positions of the entries in the order of their data, which must cover all of it once.
inline std::vector<std::size_t> data_order(const std::vector<TensorEntry>& entries, std::uint64_t data_size,
                                           std::string_view source) {
  std::vector<std::size_t> order(entries.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(entries[a].begin, entries[a].end) < std::pair(entries[b].begin, entries[b].end);
  });
  std::uint64_t covered = 0;
  const auto hole = [&](std::uint64_t until) {
    throw_file(source, "bytes " + std::to_string(covered) + " to " + std::to_string(until) +
                           " of the data belong to no tensor");
  };
  for (const std::size_t i : order) {
    if (entries[i].begin > covered) hole(entries[i].begin);
    if (entries[i].begin < covered)
      throw_file(source, "tensor " + in_quotes(entries[i].tensor.name) + " begins at byte " +
                             std::to_string(entries[i].begin) +
                             " of the data, inside of another tensor, which ends at " + std::to_string(covered));
    covered = entries[i].end;
  }
  if (covered != data_size) hole(data_size);
  return order;
}

/// Reads the header: fills `metadata` and returns the tensors, whose values are still to be read.
inline std::vector<TensorEntry> parse_safetensors_header(std::string_view header, std::uint64_t data_size,
                                                         std::string_view source,
                                                         std::map<std::string, std::string>& metadata) {
  const auto length = header.find_last_not_of(' ') + 1;  // spaces may follow; 0 if there is nothing else
  if (length == 0 || header.front() != '{' || header[length - 1] != '}')
    throw_file(source, "the header begins with " + in_quotes(header.substr(0, 10)) + ", expected { ... } and spaces");
  const std::string where = std::string(source) + ": header";
  const Json json = parse_json(header.substr(0, length), where);
  std::vector<TensorEntry> entries;
  for (const auto& [name, value] : json.members()) {
    if (name == "__metadata__") {
      for (const auto& [key, text] : value.members(where + ", __metadata__"))
        metadata[key] = text.as<std::string>(where + ", __metadata__ " + in_quotes(key));
      continue;
    }
    try {
      entries.push_back(parse_tensor_entry(name, value, data_size));
    } catch (const std::runtime_error& error) {
      throw_file(source, "tensor " + in_quotes(name) + ": " + error.what());
    }
  }
  return entries;
}

/// Reads a container of `size` bytes, of which `next(n)` gives the next n as a std::string.
template <class Next>
SafeTensors read_safetensors_from(std::uint64_t size, Next&& next, std::string_view source) {
  if (size < 8)
    throw_file(source, "has " + std::to_string(size) + " bytes, expected at least the 8 of the header's length");
  const auto header_size = load<std::uint64_t>(next(8).data());
  const std::uint64_t limit = std::min(kMaxSafetensorsHeader, size - 8);
  if (header_size > limit)
    throw_file(source, "the header has a length of " + std::to_string(header_size) + " bytes, expected at most " +
                           std::to_string(limit) + " in a file of " + std::to_string(size));
  const std::uint64_t data_size = size - 8 - header_size;
  SafeTensors result;
  auto entries = parse_safetensors_header(next(header_size), data_size, source, result.metadata);
  for (const std::size_t i : data_order(entries, data_size, source))
    entries[i].tensor.bytes = next(entries[i].end - entries[i].begin);
  for (auto& entry : entries) result.add(std::move(entry.tensor));
  return result;
}

}  // namespace detail

/// Reads the bytes of a safetensors file; the tensors come in the order of the header. Throws std::runtime_error for
/// whatever is not as the format has it; `source` is how messages call the bytes.
inline SafeTensors parse_safetensors(std::string_view bytes, std::string_view source = "safetensors data") {
  return detail::read_safetensors_from(
      bytes.size(),
      [rest = bytes](std::uint64_t count) mutable {
        std::string part(rest.substr(0, count));
        rest.remove_prefix(count);
        return part;
      },
      source);
}

/// Reads a safetensors file; see parse_safetensors() and read_file() for the errors.
inline SafeTensors read_safetensors(const std::string& path) {
  detail::InputFile file(path);
  if (!file.regular()) detail::throw_file(path, "is a pipe or a device, expected a file");
  return detail::read_safetensors_from(
      file.size(), [&](std::uint64_t count) { return file.read(count); }, path);
}

/// The bytes of a safetensors file: tensors in the order in which they were added, the data at a multiple of 8 bytes.
/// The same contents give the same bytes.
inline std::string format_safetensors(const SafeTensors& tensors) {
  Json::Object header;
  if (!tensors.metadata.empty()) {
    Json::Object metadata;
    for (const auto& [key, value] : tensors.metadata) metadata.emplace_back(key, value);
    header.emplace_back("__metadata__", std::move(metadata));
  }
  std::uint64_t offset = 0;
  for (const Tensor& tensor : tensors) {
    header.emplace_back(tensor.name, Json::Object{{"dtype", detail::info(tensor.dtype).name},
                                                  {"shape", tensor.shape},
                                                  {"data_offsets", std::vector{offset, offset + tensor.bytes.size()}}});
    offset += tensor.bytes.size();
  }
  std::string text = Json(std::move(header)).text();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > detail::kMaxSafetensorsHeader)
    detail::throw_invalid("format_safetensors",
                          "the header is " + std::to_string(text.size()) + " bytes, expected at most 100 million");
  std::string out;
  out.reserve(8 + text.size() + offset);
  const std::uint64_t header_size = text.size();
  detail::append_bytes(out, &header_size, 1);
  out += text;
  for (const Tensor& tensor : tensors) out += tensor.bytes;
  return out;
}

/// Writes a safetensors file; see format_safetensors() and write_atomically() for the errors.
inline void write_safetensors(const std::string& path, const SafeTensors& tensors) {
  write_atomically(path, format_safetensors(tensors));
}

}  // namespace rhei
