// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// JSON (RFC 8259): a value, a strict parser and a writer, for file headers, saved architectures and results.
///
/// Strict: UTF-8 is checked, a key may come only once, nothing may follow the value, numbers must fit, and nesting goes
/// no deeper than 100. Objects keep the order of their members. An integer that fits a std::int64_t is kept as one;
/// any other number is a double and is written with the fewest digits that read back to the same bits.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <rhei/io/file.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rhei {

namespace detail {

template <class T>
concept JsonInteger = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char>;

}  // namespace detail

/// A JSON value: null, boolean, integer, double, string, array or object.
///
/// ```cpp
/// Json result = Json::Object{{"flow", "nsf"}, {"layers", 4}, {"hidden", std::vector{64, 64}}};
/// result["nll"] = 1.25;
/// write_json("results.json", result);
/// const auto hidden = read_json("results.json").get<std::vector<int>>("hidden");
/// ```
/// The accessors throw std::runtime_error with a sentence that names the key, what was found and what was expected.
class Json {
 public:
  /// Values by position.
  using Array = std::vector<Json>;
  /// Values by key, in the order of the text.
  using Object = std::vector<std::pair<std::string, Json>>;

  /// null
  Json() = default;
  /// true or false.
  template <std::same_as<bool> T>
  Json(T value) : value_(value) {}
  /// Throws std::invalid_argument for what a std::int64_t cannot hold.
  template <detail::JsonInteger T>
  Json(T value) : value_(static_cast<std::int64_t>(value)) {
    if (!std::in_range<std::int64_t>(value))
      throw std::invalid_argument("Json: integer is " + std::to_string(value) + ", expected at most 2^63 - 1");
  }
  /// A number.
  template <Real T>
  Json(T value) : value_(static_cast<double>(value)) {}
  /// A text in UTF-8.
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(const char* value) : value_(std::string(value)) {}
  /// An array of these values.
  Json(Array value) : value_(std::move(value)) {}
  /// An object of these members.
  Json(Object value) : value_(std::move(value)) {}
  /// An array of the values.
  template <class T>
  Json(const std::vector<T>& values) : value_(Array(values.begin(), values.end())) {}

  /// Whether it is null, as a default-constructed one is.
  [[nodiscard]] bool is_null() const { return value_.index() == 0; }
  /// Whether the value is held as a T: bool, std::int64_t, double, std::string, Array or Object.
  template <class T>
  [[nodiscard]] bool is() const {
    return std::holds_alternative<T>(value_);
  }

  /// The value as bool, an integer (which must fit), double, float (which must hold it but for rounding), std::string
  /// or a std::vector of these. `what` is how the message calls the value.
  template <class T>
  [[nodiscard]] T as(const std::string& what = "JSON value") const {
    if constexpr (std::same_as<T, bool>) {
      return *expect<bool>(what, "true or false");
    } else if constexpr (std::integral<T>) {
      const std::int64_t value = *expect<std::int64_t>(what, "an integer");
      if (!std::in_range<T>(value))
        mismatch(what, "an integer from " + std::to_string(std::numeric_limits<T>::min()) + " to " +
                           std::to_string(std::numeric_limits<T>::max()));
      return static_cast<T>(value);
    } else if constexpr (Real<T>) {
      const auto* integer = std::get_if<std::int64_t>(&value_);
      const double value = integer ? static_cast<double>(*integer) : *expect<double>(what, "a number");
      if (std::abs(value) > static_cast<double>(std::numeric_limits<T>::max())) mismatch(what, "a number float holds");
      return static_cast<T>(value);
    } else if constexpr (std::same_as<T, std::string>) {
      return *expect<std::string>(what, "a string");
    } else {
      T values;
      const Array& items = elements(what);
      values.reserve(items.size());
      for (std::size_t i = 0; i < items.size(); ++i)
        values.push_back(items[i].as<typename T::value_type>(what + "[" + std::to_string(i) + "]"));
      return values;
    }
  }

  /// The elements of an array.
  [[nodiscard]] const Array& elements(const std::string& what = "JSON value") const {
    return *expect<Array>(what, "an array");
  }
  /// The members of an object, in order.
  [[nodiscard]] const Object& members(const std::string& what = "JSON value") const {
    return *expect<Object>(what, "an object");
  }

  /// The member of an object, or nullptr.
  [[nodiscard]] const Json* find(std::string_view key) const {
    for (const auto& [name, value] : expect_object_with(key))
      if (name == key) return &value;
    return nullptr;
  }
  /// Whether it is an object with a member of this name.
  [[nodiscard]] bool contains(std::string_view key) const { return find(key) != nullptr; }
  /// The member of an object; throws when it has none of this name.
  [[nodiscard]] const Json& at(std::string_view key) const {
    if (const Json* value = find(key)) return *value;
    std::string names;
    for (const auto& [name, value] : expect_object_with(key)) {
      if (names.size() > 200) {
        names += ", ...";
        break;
      }
      names += (names.empty() ? "" : ", ") + detail::in_quotes(name);
    }
    throw std::runtime_error("JSON object has no key " + detail::in_quotes(key) + ", found " +
                             (names.empty() ? "no key at all" : names));
  }
  /// The member of an object as a T (see as()); throws when it is absent.
  template <class T>
  [[nodiscard]] T get(std::string_view key) const {
    return at(key).as<T>("JSON key " + detail::in_quotes(key));
  }
  /// The same, with a value for when it is absent (and only then).
  template <class T>
  [[nodiscard]] T get(std::string_view key, T otherwise) const {
    return contains(key) ? get<T>(key) : std::move(otherwise);
  }

  /// The member of an object to write to, appended when it is absent; null becomes an object.
  Json& operator[](std::string_view key) {
    if (is_null()) value_ = Object{};
    if (const Json* value = find(key)) return const_cast<Json&>(*value);
    return std::get<Object>(value_).emplace_back(key, Json()).second;
  }
  /// Appends to an array; null becomes an array.
  void push_back(Json value) {
    if (is_null()) value_ = Array{};
    static_cast<void>(elements("JSON value to append to"));
    std::get<Array>(value_).push_back(std::move(value));
  }

  /// The same kind and value; members of objects in the same order.
  bool operator==(const Json&) const = default;

  /// The JSON text: on one line, or (indent > 0) a line for each member and each element that is not a plain value.
  /// Throws std::invalid_argument for what JSON cannot hold: NaN, infinities and strings that are not UTF-8.
  [[nodiscard]] std::string text(int indent = 0) const {
    std::string out;
    write(out, indent, 0);
    return out;
  }

 private:
  [[nodiscard]] std::string describe() const {
    if (const auto* string = std::get_if<std::string>(&value_)) return "the string " + detail::in_quotes(*string);
    if (const auto* array = std::get_if<Array>(&value_)) return "an array of " + std::to_string(array->size());
    if (std::holds_alternative<Object>(value_)) return "an object";
    return text();
  }
  [[noreturn]] void mismatch(const std::string& what, const std::string& expected) const {
    throw std::runtime_error(what + " is " + describe() + ", expected " + expected);
  }
  template <class T>
  const T* expect(const std::string& what, const char* expected) const {
    const T* value = std::get_if<T>(&value_);
    if (!value) mismatch(what, expected);
    return value;
  }
  const Object& expect_object_with(std::string_view key) const {
    const auto* object = std::get_if<Object>(&value_);
    if (!object) mismatch("JSON value", "an object with the key " + detail::in_quotes(key));
    return *object;
  }

  void write(std::string& out, int indent, int depth) const;

  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> value_;
};

namespace detail {

/// The offset of the first byte that is not part of well-formed UTF-8 (Unicode 15, table 3-7), npos if there is none.
inline std::size_t find_invalid_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    // the second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF
    const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    bool ok = lead >= 0xc2 && lead <= 0xf4 && byte(i + 1) >= low && byte(i + 1) <= high;
    for (std::size_t k = 2; k < length; ++k) ok = ok && (byte(i + k) & 0xc0) == 0x80;
    if (!ok) return i;
    i += length;
  }
  return std::string_view::npos;
}

inline void append_utf8(std::string& out, unsigned code) {
  const auto put = [&](unsigned byte) { out += static_cast<char>(byte); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | code >> 6);
  } else {
    if (code < 0x10000) {
      put(0xe0 | code >> 12);
    } else {
      put(0xf0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3f));
    }
    put(0x80 | (code >> 6 & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

/// The fewest digits that read back to the same double.
inline void append_number(std::string& out, double value) {
  char digits[32];
  out.append(digits, std::to_chars(digits, digits + sizeof digits, value).ptr);
}

/// The letters after a backslash, and what they stand for.
inline constexpr std::pair<char, char> kJsonEscapes[] = {{'"', '"'},  {'\\', '\\'}, {'/', '/'},  {'b', '\b'},
                                                         {'f', '\f'}, {'n', '\n'},  {'r', '\r'}, {'t', '\t'}};

class JsonParser {
 public:
  JsonParser(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  Json parse() {
    if (const auto bad = find_invalid_utf8(text_); bad != std::string_view::npos) fail(bad, "not valid UTF-8");
    Json value = parse_value(0);
    skip_spaces();
    if (at_ < text_.size()) fail(at_, "found " + found() + " after the JSON value, expected its end");
    return value;
  }

 private:
  static constexpr int kDepth = 100;

  [[noreturn]] void fail(std::size_t where, const std::string& what) const {
    throw_file(source_, "byte " + std::to_string(where) + ": " + what);
  }
  [[noreturn]] void fail_here(const char* expected) const { fail(at_, "found " + found() + ", expected " + expected); }
  [[nodiscard]] std::string found() const {
    return at_ < text_.size() ? in_quotes(text_.substr(at_, 10)) : std::string("the end of the text");
  }

  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool accept(char c) {
    const bool yes = at_ < text_.size() && text_[at_] == c;
    at_ += yes;
    return yes;
  }
  bool accept(std::string_view word) {
    const bool yes = text_.substr(at_).starts_with(word);
    at_ += yes ? word.size() : 0;
    return yes;
  }
  void skip_spaces() {
    while (accept(' ') || accept('\n') || accept('\t') || accept('\r')) {
    }
  }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }

  Json parse_value(int depth) {
    if (depth > kDepth) fail(at_, "nested deeper than " + std::to_string(kDepth));
    skip_spaces();
    if (accept('{')) return parse_object(depth);
    if (accept('[')) return parse_array(depth);
    if (accept('"')) return parse_string();
    if (peek() == '-' || is_digit(peek())) return parse_number();
    if (accept("true")) return true;
    if (accept("false")) return false;
    if (accept("null")) return {};
    fail_here("a JSON value");
  }

  Json parse_object(int depth) {
    Json::Object members;
    std::vector<std::size_t> offsets;  // of the keys
    skip_spaces();
    if (!accept('}')) {
      do {
        skip_spaces();
        offsets.push_back(at_);
        if (!accept('"')) fail_here("a key in double quotes");
        std::string key = parse_string();
        skip_spaces();
        if (!accept(':')) fail_here("':' after a key");
        members.emplace_back(std::move(key), parse_value(depth + 1));
        skip_spaces();
      } while (accept(','));
      if (!accept('}')) fail_here("',' or '}'");
    }
    refuse_duplicates(members, offsets);
    return members;
  }

  void refuse_duplicates(const Json::Object& members, const std::vector<std::size_t>& offsets) const {
    std::vector<std::size_t> order(members.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    const auto key = [&](std::size_t i) { return std::pair<std::string_view, std::size_t>(members[i].first, i); };
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) < key(b); });
    for (std::size_t i = 1; i < order.size(); ++i)
      if (members[order[i]].first == members[order[i - 1]].first)
        fail(offsets[order[i]], "the key " + in_quotes(members[order[i]].first) + " came before");
  }

  Json parse_array(int depth) {
    Json::Array elements;
    skip_spaces();
    if (accept(']')) return elements;
    do {
      elements.push_back(parse_value(depth + 1));
      skip_spaces();
    } while (accept(','));
    if (!accept(']')) fail_here("',' or ']'");
    return elements;
  }

  std::string parse_string() {  // after the opening quote
    std::string out;
    for (;;) {
      const std::size_t plain = at_;
      while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' &&
             static_cast<unsigned char>(text_[at_]) >= 0x20)
        ++at_;
      out.append(text_.substr(plain, at_ - plain));
      if (accept('"')) return out;
      if (!accept('\\')) fail_here("a character of a string or its closing quote");
      if (accept('u'))
        append_utf8(out, parse_code_point());
      else
        out += parse_escape();
    }
  }

  char parse_escape() {
    for (const auto& [letter, meaning] : kJsonEscapes)
      if (accept(letter)) return meaning;
    fail_here("one of \"\\/bfnrtu after a backslash");
  }

  unsigned parse_code_point() {  // after \u
    const std::size_t start = at_ - 2;
    const unsigned first = parse_hex();
    if (first < 0xd800 || first > 0xdfff) return first;
    if (first < 0xdc00 && accept("\\u")) {
      const unsigned second = parse_hex();
      if (second >= 0xdc00 && second <= 0xdfff) return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    }
    fail(start, "half of a surrogate pair");
  }

  unsigned parse_hex() {
    unsigned code = 0;
    const char* first = text_.data() + at_;
    const char* last = first + std::min<std::size_t>(4, text_.size() - at_);
    const auto [end, error] = std::from_chars(first, last, code, 16);
    if (end != first + 4) fail_here("four hexadecimal digits");
    at_ += 4;
    return code;
  }

  Json parse_number() {
    const std::size_t start = at_;
    const auto digits = [&] {
      if (!is_digit(peek())) fail_here("a digit");
      while (is_digit(peek())) ++at_;
    };
    const bool negative = accept('-');
    const bool zero = peek() == '0';
    digits();
    if (zero && at_ - start > (negative ? 2u : 1u)) fail(start, "a number begins with a needless 0");
    bool integer = !(negative && zero);  // -0 is a double, which keeps the sign
    if (accept('.')) {
      integer = false;
      digits();
    }
    if (accept('e') || accept('E')) {
      integer = false;
      if (!accept('+')) accept('-');
      digits();
    }
    const char* first = text_.data() + start;
    const char* last = text_.data() + at_;
    if (std::int64_t whole; integer && std::from_chars(first, last, whole).ec == std::errc{}) return whole;
    double value = 0;
    if (std::from_chars(first, last, value).ec != std::errc{})
      fail(start, "the number " + in_quotes(text_.substr(start, at_ - start)) + " is beyond the range of double");
    return value;
  }

  std::string_view text_;
  std::string_view source_;
  std::size_t at_ = 0;
};

inline void append_json_string(std::string& out, std::string_view text) {
  if (find_invalid_utf8(text) != std::string_view::npos)
    throw std::invalid_argument("Json: string is " + in_quotes(text) + ", expected UTF-8");
  out += '"';
  for (const char c : text) {
    const auto* escape = std::find_if(std::begin(kJsonEscapes), std::end(kJsonEscapes),
                                      [&](const auto& pair) { return pair.second == c && c != '/'; });
    if (escape != std::end(kJsonEscapes))
      out.append(1, '\\').append(1, escape->first);
    else if (static_cast<unsigned char>(c) < 0x20)
      out.append(c < 0x10 ? "\\u000" : "\\u001").append(1, "0123456789abcdef"[c & 15]);
    else
      out += c;
  }
  out += '"';
}

}  // namespace detail

inline void Json::write(std::string& out, int indent, int depth) const {
  const auto new_line = [&](int level) {
    if (indent > 0) out.append(1, '\n').append(static_cast<std::size_t>(indent * level), ' ');
  };
  const auto is_plain = [](const Json& json) { return json.value_.index() < 5; };

  if (const auto* object = std::get_if<Object>(&value_)) {
    out += '{';
    for (const auto& [key, value] : *object) {
      if (&key != &object->front().first) out += ',';
      new_line(depth + 1);
      detail::append_json_string(out, key);
      out += indent > 0 ? ": " : ":";
      value.write(out, indent, depth + 1);
    }
    if (!object->empty()) new_line(depth);
    out += '}';
  } else if (const auto* array = std::get_if<Array>(&value_)) {
    const bool one_line = std::all_of(array->begin(), array->end(), is_plain);
    out += '[';
    for (const auto& value : *array) {
      if (&value != &array->front()) out += indent > 0 && one_line ? ", " : ",";
      if (!one_line) new_line(depth + 1);
      value.write(out, indent, depth + 1);
    }
    if (!one_line) new_line(depth);
    out += ']';
  } else if (const auto* string = std::get_if<std::string>(&value_)) {
    detail::append_json_string(out, *string);
  } else if (const auto* number = std::get_if<double>(&value_)) {
    if (!std::isfinite(*number))
      throw std::invalid_argument("Json: number is " + std::to_string(*number) + ", expected a finite one");
    const std::size_t start = out.size();
    detail::append_number(out, *number);
    if (out.find_first_of(".e", start) == std::string::npos) out += ".0";  // stays a double when read
  } else if (const auto* integer = std::get_if<std::int64_t>(&value_)) {
    out += std::to_string(*integer);
  } else if (const auto* boolean = std::get_if<bool>(&value_)) {
    out += *boolean ? "true" : "false";
  } else {
    out += "null";
  }
}

/// Reads a JSON text. Throws std::runtime_error with the byte offset, counted from 0, of what is wrong; `source` is how
/// messages call the text.
inline Json parse_json(std::string_view text, std::string_view source = "JSON text") {
  return detail::JsonParser(text, source).parse();
}

/// Reads a JSON file; see parse_json() and read_file() for the errors.
inline Json read_json(const std::string& path) { return parse_json(read_file(path), path); }

/// Writes a JSON file, indented by two; see Json::text() and write_atomically() for the errors.
inline void write_json(const std::string& path, const Json& json) { write_atomically(path, json.text(2) + "\n"); }

}  // namespace rhei
