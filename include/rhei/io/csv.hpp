// SPDX-License-Identifier: MIT
#pragma once

/// \file
/// Tables of numbers as text: CSV (RFC 4180) and its relatives.

#include <algorithm>
#include <charconv>
#include <cstring>
#include <rhei/core/errors.hpp>
#include <rhei/io/file.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace rhei {

/// Rows of numbers, and the names of the columns (one each, or none at all).
struct Table {
  Matrix<double> values;           ///< rows x columns
  std::vector<std::string> names;  ///< as many as columns, or empty
};

namespace detail {

/// The number that is all of `text`, with an optional sign, as decimal digits with an optional exponent, or as one of
/// the words inf, infinity, nan (in any case).
inline std::errc parse_number(std::string_view text, double& value) {
  if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
  const char* last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, value);
  return end == last ? error : std::errc::invalid_argument;
}

/// Whether a field of the first line says that this line holds names.
inline bool is_name(std::string_view field) {
  double ignored;
  return !field.empty() && parse_number(field, ignored) == std::errc::invalid_argument;
}

class CsvParser {
 public:
  CsvParser(std::string_view text, std::string_view source) : text_(text), source_(source) {
    constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
    if (text_.starts_with(byte_order_mark)) text_.remove_prefix(byte_order_mark.size());
    const auto last = text_.find_last_not_of(" \r\n");
    text_ = last == std::string_view::npos ? std::string_view() : text_.substr(0, last + 1);
  }

  Table parse() {
    if (text_.empty()) throw_file(source_, "is empty, expected rows of numbers");
    Table table;
    const std::string_view first = without_cr(text_.substr(0, first_line_end()));
    separator_ = detect_separator(first);
    bool has_names = false;
    for_each_field(first, [&](const std::string& field) { has_names = has_names || is_name(field); });
    if (has_names) {
      for_each_field(first, [&](std::string& field) { names_.push_back(std::move(field)); });
      table.names = names_;
      line_ += static_cast<std::size_t>(std::count(first.begin(), first.end(), '\n')) + 1;
      text_.remove_prefix(std::min(first_line_end() + 1, text_.size()));
    }
    parse_rows(table.values);
    return table;
  }

 private:
  static std::string_view without_cr(std::string_view line) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line;
  }
  [[nodiscard]] bool is_blank(char c) const { return c == ' ' || (c == '\t' && separator_ != '\t'); }
  void skip_blanks(const char*& at, const char* end) const {
    while (at < end && is_blank(*at)) ++at;
  }

  /// Where the first line ends: a name in quotes may hold line ends.
  [[nodiscard]] std::size_t first_line_end() const {
    bool quotes = false;
    for (std::size_t i = 0; i < text_.size(); ++i) {
      if (text_[i] == '"') quotes = !quotes;
      if (text_[i] == '\n' && !quotes) return i;
    }
    if (quotes) throw_file(source_, "line 1: a field in quotes is not closed");
    return text_.size();
  }

  /// The rarer sign decides: a semicolon before a tab, a tab before a comma, and blanks when there is none of these.
  static char detect_separator(std::string_view line) {
    for (const char candidate : {';', '\t', ','}) {
      bool quotes = false;
      for (const char c : line) {
        if (c == '"') quotes = !quotes;
        if (c == candidate && !quotes) return candidate;
      }
    }
    return ' ';
  }

  /// Shows the fields of the first line, and counts them.
  template <class Visit>
  void for_each_field(std::string_view line, Visit&& visit) {
    columns_ = 0;
    do {
      std::string field;
      if (!take_field(line, field)) fail(columns_, field, "quotes around a whole field");
      visit(field);
      ++columns_;
    } while (more_);
  }

  /// Moves a field from the front of `line` into `field`, without the quotes and blanks around it, and notes whether
  /// another follows. False if quotes do not come as RFC 4180 has them; the field is then what stands there.
  bool take_field(std::string_view& line, std::string& field) {
    const char* at = line.data();
    const char* const end = at + line.size();
    skip_blanks(at, end);
    const char* const start = at;
    bool ok = true;
    if (at < end && *at == '"') {
      ok = false;
      for (++at; at < end && !ok; ++at) {
        if (*at != '"')
          field += *at;
        else if (at + 1 < end && at[1] == '"')
          field += *at++;
        else
          ok = true;
      }
      skip_blanks(at, end);
      if (at < end && *at != separator_ && separator_ != ' ') ok = false;
      if (at < end && separator_ == ' ' && !is_blank(at[-1])) ok = false;
      if (!ok) field.clear();
    }
    if (!ok || at == start) {
      while (at < end && (separator_ == ' ' ? !is_blank(*at) : *at != separator_)) ++at;
      const char* last = at;
      while (last > start && is_blank(last[-1])) --last;
      field.assign(start, last);
    }
    if (separator_ == ' ') {
      skip_blanks(at, end);
      more_ = at < end;
    } else {
      more_ = at < end;
      at += more_;
    }
    line.remove_prefix(static_cast<std::size_t>(at - line.data()));
    return ok;
  }

  void parse_rows(Matrix<double>& values) {
    if (text_.empty()) return values.resize(0, static_cast<Index>(columns_));
    // A number takes two bytes of text at least. So many rows can be whole, and one more can begin: what is reserved
    // grows with the file, whatever its first line says.
    const auto lines = static_cast<std::size_t>(std::count(text_.begin(), text_.end(), '\n')) + 1;
    values.resize(static_cast<Index>(std::min(lines, text_.size() / (2 * columns_) + 1)), static_cast<Index>(columns_));
    const char* at = text_.data();
    const char* const end = at + text_.size();
    for (Index row = 0; at <= end; ++row, ++line_) {
      const void* found = at < end ? std::memchr(at, '\n', static_cast<std::size_t>(end - at)) : nullptr;
      const char* const next = found ? static_cast<const char*>(found) : end;
      parse_row(without_cr({at, static_cast<std::size_t>(next - at)}), values, row);
      at = next + 1;
    }
  }

  void parse_row(std::string_view line, Matrix<double>& values, Index row) {
    const std::string_view whole = line;
    for (std::size_t column = 0; column < columns_; ++column) {
      double& value = values(row, static_cast<Index>(column));
      if (!take_number(line, value)) take_any_number(line, value, column, whole);
      if (more_ != (column + 1 < columns_)) fail_ragged(whole);
    }
  }

  /// A plain number from the front of `line`. False, with nothing taken, for all that needs a closer look.
  bool take_number(std::string_view& line, double& value) {
    const char* at = line.data();
    const char* const end = at + line.size();
    skip_blanks(at, end);
    const auto [stop, error] = std::from_chars(at, end, value);
    if (error != std::errc{}) return false;
    at = stop;
    skip_blanks(at, end);
    more_ = at < end;
    if (more_ && separator_ == ' ') {
      if (at == stop) return false;
    } else if (more_) {
      if (*at++ != separator_) return false;
    }
    line.remove_prefix(static_cast<std::size_t>(at - line.data()));
    return true;
  }

  void take_any_number(std::string_view& line, double& value, std::size_t column, std::string_view whole) {
    if (whole.find_first_not_of(" ") == std::string_view::npos)
      throw_file(source_, "line " + std::to_string(line_) + " is blank, expected " + std::to_string(columns_) +
                              " numbers (blank lines may stand only at the end)");
    std::string field;
    if (!take_field(line, field)) fail(column, field);
    const std::errc error = parse_number(field, value);
    if (error == std::errc::result_out_of_range) fail(column, field, "a number in the range of double");
    if (error != std::errc{}) fail(column, field);
  }

  [[noreturn, gnu::cold]] void fail(std::size_t column, const std::string& field,
                                    const char* expected = "a number") const {
    const std::string name = column < names_.size() ? " (" + in_quotes(names_[column]) + ")" : "";
    throw_file(source_, "line " + std::to_string(line_) + ", column " + std::to_string(column + 1) + name + ": found " +
                            (field.empty() ? "an empty field" : in_quotes(field)) + ", expected " + expected);
  }
  [[noreturn, gnu::cold]] void fail_ragged(std::string_view line) {
    std::size_t count = 0;
    for (more_ = true; more_; ++count) {
      std::string ignored;
      take_field(line, ignored);
    }
    throw_file(source_, "line " + std::to_string(line_) + " has " + std::to_string(count) + " fields, expected " +
                            std::to_string(columns_) + " as in line 1");
  }

  std::string_view text_;
  std::string_view source_;
  char separator_ = ',';
  std::size_t columns_ = 0;
  std::size_t line_ = 1;            // where text_ begins, then where the row stands
  bool more_ = false;               // whether a field follows the one taken last
  std::vector<std::string> names_;  // for messages
};

}  // namespace detail

/// Reads a table of numbers, one row a line.
///
/// Numbers are separated by semicolons, tabs, commas (the first of these that the first line holds outside quotes) or
/// else by runs of blanks. A first line in which a field is no number (and not empty) holds the names. Fields may stand
/// in double quotes (RFC 4180) and between blanks; lines may end in CR LF, the text may begin with a UTF-8 byte order
/// mark and end with blank lines. The words inf, infinity and nan, in any case, are numbers.
///
/// Throws std::runtime_error, with the line and the column, for anything else in the place of a number, an empty field,
/// a number beyond the range of double, a row of another length than the first line, and a text without a line.
/// `source` is how messages call the text.
inline Table parse_csv(std::string_view text, std::string_view source = "CSV text") {
  return detail::CsvParser(text, source).parse();
}

/// Reads a table of numbers from a file; see parse_csv().
inline Table read_csv(const std::string& path) { return parse_csv(read_file(path), path); }

/// The text of a table: commas, names (if any) in the first line, the fewest digits that read back to the same bits.
///
/// Throws std::invalid_argument for what parse_csv() would not give back: names that are not as many as the columns or
/// that read as numbers, a table without columns, one with neither names nor rows.
inline std::string format_csv(const Table& table) {
  const auto& [values, names] = table;
  if (values.cols() == 0 || (values.rows() == 0 && names.empty()))
    detail::throw_invalid("format_csv", "table is " + detail::shape_text(values.rows(), values.cols()) + " with " +
                                            std::to_string(names.size()) +
                                            " names, expected columns, and rows or names");
  if (!names.empty() && static_cast<Index>(names.size()) != values.cols())
    detail::throw_invalid("format_csv", "names are " + std::to_string(names.size()) +
                                            ", expected one for each of the " + std::to_string(values.cols()) +
                                            " columns");
  if (!names.empty() && std::none_of(names.begin(), names.end(), detail::is_name))
    detail::throw_invalid("format_csv", "names begin with " + detail::in_quotes(names.front()) +
                                            " and are all numbers or empty, expected one that is not, "
                                            "since they would be read as a row");
  std::string out;
  for (const std::string& name : names) {
    if (&name != &names.front()) out += ',';
    constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    if (!name.empty() && name.find_first_not_of(plain) == std::string::npos) {
      out += name;
      continue;
    }
    out += '"';
    for (const char c : name) out.append(c == '"' ? 2 : 1, c);
    out += '"';
  }
  if (!names.empty()) out += '\n';
  for (Index i = 0; i < values.rows(); ++i)
    for (Index j = 0; j < values.cols(); ++j) {
      char digits[32];
      out.append(digits, std::to_chars(digits, digits + sizeof digits, values(i, j)).ptr);
      out += j + 1 < values.cols() ? ',' : '\n';
    }
  return out;
}

/// Writes a table to a file; see format_csv() and write_atomically() for the errors.
inline void write_csv(const std::string& path, const Table& table) { write_atomically(path, format_csv(table)); }

}  // namespace rhei
