// SPDX-License-Identifier: MIT

#include "support/allocation_counter.hpp"
#include "support/bits.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

#include <unistd.h>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <rhei/core/random.hpp>
#include <rhei/io/safetensors.hpp>
#include <string>
#include <type_traits>
#include <vector>

using namespace rhei;
using namespace rhei::testing;

namespace {

std::string container(const std::string& header, const std::string& data) {
  std::string file;
  const std::uint64_t length = header.size();
  detail::append_bytes(file, &length, 1);
  return file + header + data;
}

/// A file with one tensor "t" of one dimension.
template <class T>
Tensor tensor_of(const std::string& dtype, const std::vector<T>& values) {
  const std::string data = bytes_of(values);
  return parse_safetensors(container("{\"t\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + std::to_string(values.size()) +
                                         "],\"data_offsets\":[0," + std::to_string(data.size()) + "]}}",
                                     data))
      .at("t");
}

std::string safetensors_refusal(const std::string& file) {
  return error_text<std::runtime_error>([&] { parse_safetensors(file); });
}

SafeTensors example() {
  SafeTensors file;
  file.metadata = {{"format", "rhei"}, {"note", "\u00e4 \"quoted\"\n"}};
  file.add(Tensor::from_matrix("weight", any_bits<float>(3, 2)));
  file.add(Tensor::from_vector("bias", Vector<double>(any_bits<double>(5, 1))));
  file.add(Tensor::from_values<std::int64_t>("permutation", std::vector<std::int64_t>{2, 0, 1}, {3}));
  file.add(Tensor::from_matrix("empty", Matrix<float>(0, 3)));
  file.add(Tensor::from_values<float>("a \"scalar\"", std::vector{1.5f}, {}));
  return file;
}

}  // namespace

TEMPLATE_TEST_CASE("tensors come back bit for bit", "[io][safetensors]", RHEI_TEST_SCALARS) {
  using S = TestType;
  testing::TemporaryFolder folder;
  const std::string path = folder / "t.safetensors";
  SafeTensors file;
  const Matrix<S> m = any_bits<S>(17, 5);
  const Vector<S> v = any_bits<S>(9, 1);
  const RowVector<S> r = any_bits<S>(1, 4);
  const std::vector<S> cube(m.data(), m.data() + 24);
  file.add(Tensor::from_matrix("m", m));
  file.add(Tensor::from_matrix("block", m.block(2, 1, 3, 2)));
  file.add(Tensor::from_vector("v", v));
  file.add(Tensor::from_vector("r", r));
  file.add(Tensor::from_values<S>("cube", cube, {2, 3, 4}));
  file.add(Tensor::from_matrix("0 x 3", Matrix<S>(0, 3)));
  file.add(Tensor::from_matrix("3 x 0", Matrix<S>(3, 0)));
  file.add(Tensor::from_vector("none", Vector<S>()));
  write_safetensors(path, file);

  const SafeTensors back = read_safetensors(path);
  CHECK(same_bits(back.at("m").to_matrix<S>(), m));
  CHECK(same_bits(back.at("block").to_matrix<S>(), Matrix<S>(m.block(2, 1, 3, 2))));
  CHECK(same_bits(back.at("v").to_vector<S>(), v));
  CHECK(same_bits(back.at("r").to_vector<S>(), Vector<S>(r.transpose())));
  const auto values = back.at("cube").template to_values<S>();
  CHECK(back.at("cube").shape == std::vector<Index>{2, 3, 4});
  CHECK((values.size() == 24 && std::memcmp(values.data(), cube.data(), 24 * sizeof(S)) == 0));
  CHECK(same_bits(back.at("0 x 3").to_matrix<S>(), Matrix<S>(0, 3)));
  CHECK(same_bits(back.at("3 x 0").to_matrix<S>(), Matrix<S>(3, 0)));
  CHECK(back.at("none").to_vector<S>().size() == 0);
}

TEST_CASE("a container keeps order, names and metadata, and writes the same bytes again", "[io][safetensors]") {
  const SafeTensors file = example();
  const std::string bytes = format_safetensors(file);
  const auto header_size = detail::load<std::uint64_t>(bytes.data());
  CHECK(header_size % 8 == 0);
  CHECK(
      bytes.substr(8, header_size)
          .starts_with(
              R"({"__metadata__":{"format":"rhei","note":"ä \"quoted\"\n"},"weight":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},)"
              R"("bias":{"dtype":"F64","shape":[5],"data_offsets":[24,64]},)"));

  const SafeTensors back = parse_safetensors(bytes);
  CHECK(back.metadata == file.metadata);
  REQUIRE(back.size() == 5);
  auto original = file.begin();
  for (const Tensor& tensor : back) {
    CHECK(tensor.name == original->name);
    CHECK(tensor.dtype == original->dtype);
    CHECK(tensor.shape == original->shape);
    CHECK(tensor.bytes == original->bytes);
    ++original;
  }
  CHECK(format_safetensors(back) == bytes);
  CHECK(back.contains("bias"));
  CHECK_FALSE(back.contains("gain"));
  CHECK(error_text<std::runtime_error>([&] { static_cast<void>(back.at("gain")); }) ==
        "no tensor is named \"gain\" among the 5");
  CHECK(back.at("a \"scalar\"").to_values<double>() == std::vector{1.5});
  CHECK(back.at("permutation").to_int64() == std::vector<std::int64_t>{2, 0, 1});
  CHECK(parse_safetensors(format_safetensors({})).size() == 0);
}

TEST_CASE("tensors may lie in another order than their names", "[io][safetensors]") {
  const std::string header = R"({"b":{"shape":[1],"data_offsets":[8,12],"dtype":"F32"},)"
                             R"("e":{"dtype":"F32","shape":[0],"data_offsets":[8,8]},)"
                             R"("a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}   )";
  const SafeTensors file = parse_safetensors(container(header, bytes_of<float>({1, 2, 3})));
  CHECK(file.begin()->name == "b");
  CHECK(file.at("b").to_vector<float>()(0) == 3);
  CHECK(file.at("a").to_matrix<float>() == (Matrix<float>(2, 1) << 1, 2).finished());
}

TEST_CASE("tensors of every type are converted", "[io][safetensors]") {
  const auto check = [](const std::string& dtype, const auto& values, const std::vector<double>& expected,
                        bool integers) {
    CAPTURE(dtype);
    const Tensor tensor = tensor_of(dtype, values);
    CHECK(tensor.to_values<double>() == expected);
    CHECK(tensor.to_values<float>() == std::vector<float>(expected.begin(), expected.end()));
    if (integers)
      CHECK(tensor.to_int64() == std::vector<std::int64_t>(expected.begin(), expected.end()));
    else
      CHECK(error_text<std::runtime_error>([&] { static_cast<void>(tensor.to_int64()); }) ==
            "tensor \"t\" is of type " + dtype + ", expected integers");
  };
  check("BOOL", std::vector<std::uint8_t>{0, 1}, {0, 1}, true);
  check("U8", std::vector<std::uint8_t>{0, 255}, {0, 255}, true);
  check("I8", std::vector<std::int8_t>{-128, 127}, {-128, 127}, true);
  check("U16", std::vector<std::uint16_t>{0, 65535}, {0, 65535}, true);
  check("I16", std::vector<std::int16_t>{-32768, 32767}, {-32768, 32767}, true);
  check("U32", std::vector<std::uint32_t>{0, 1u << 24}, {0, 0x1p24}, true);
  check("I32", std::vector<std::int32_t>{-5, 1 << 24}, {-5, 0x1p24}, true);
  check("U64", std::vector<std::uint64_t>{0, 1u << 24}, {0, 0x1p24}, true);
  check("I64", std::vector<std::int64_t>{-(1 << 24), 7}, {-0x1p24, 7}, true);
  check("F16", std::vector<std::uint16_t>{0x3c00, 0xc000}, {1, -2}, false);
  check("BF16", std::vector<std::uint16_t>{0x3f80, 0xc000}, {1, -2}, false);
  check("F32", std::vector<float>{1.5f, -0.25f}, {1.5, -0.25}, false);
  check("F64", std::vector<double>{1.5, -0.25}, {1.5, -0.25}, false);
}

TEST_CASE("half and brain floats have their values", "[io][safetensors]") {
  const Tensor half = tensor_of<std::uint16_t>(
      "F16", {0x0000, 0x8000, 0x3c00, 0xc000, 0x3555, 0x7bff, 0x0001, 0x03ff, 0x0400, 0x7c00, 0xfc00, 0x7e00});
  const auto h = half.to_values<double>();
  CHECK((h[0] == 0 && !std::signbit(h[0])));
  CHECK((h[1] == 0 && std::signbit(h[1])));
  CHECK(h[2] == 1);
  CHECK(h[3] == -2);
  CHECK(h[4] == 0x1.554p-2);
  CHECK(h[5] == 65504);
  CHECK(h[6] == 0x1p-24);
  CHECK(h[7] == 1023 * 0x1p-24);
  CHECK(h[8] == 0x1p-14);
  CHECK(h[9] == HUGE_VAL);
  CHECK(h[10] == -HUGE_VAL);
  CHECK(std::isnan(h[11]));
  const auto b = tensor_of<std::uint16_t>("BF16", {0x3f80, 0xc000, 0x0001, 0x7f80, 0x7fc0, 0x4049}).to_values<float>();
  CHECK(b[0] == 1);
  CHECK(b[1] == -2);
  CHECK(b[2] == 0x1p-133f);
  CHECK(b[3] == HUGE_VALF);
  CHECK(std::isnan(b[4]));
  CHECK(b[5] == 3.140625f);
}

TEST_CASE("a conversion that would lose a value is refused with tensor and position", "[io][safetensors]") {
  const auto text = [](auto&& f) { return error_text<std::runtime_error>([&] { static_cast<void>(f()); }); };
  const Tensor long_integers = tensor_of<std::int64_t>("I64", {0, (std::int64_t{1} << 53) + 1});
  CHECK(text([&] { return long_integers.to_vector<double>(); }) ==
        "tensor \"t\" holds 9007199254740993 at position 1, expected an integer that double holds exactly");
  CHECK(long_integers.to_int64()[1] == 9007199254740993);
  const Tensor integers = tensor_of<std::int32_t>("I32", {1 << 24, -(1 << 24), (1 << 24) + 1});
  CHECK(contains(text([&] { return integers.to_vector<float>(); }),
                 "holds 16777217 at position 2, expected an integer that float"));
  CHECK(integers.to_vector<double>()(2) == 16777217);
  const Tensor unsigned_integers = tensor_of<std::uint64_t>("U64", {std::uint64_t{1} << 63});
  CHECK(contains(text([&] { return unsigned_integers.to_int64(); }),
                 "holds 9223372036854775808 at position 0, expected at most"));
  const Tensor booleans = tensor_of<std::uint8_t>("BOOL", {1, 0, 2});
  CHECK(text([&] { return booleans.to_int64(); }) == "tensor \"t\" holds 2 at position 2, expected 0 or 1");
  const Tensor doubles = tensor_of<double>("F64", {0.1, HUGE_VAL, 1e39});
  CHECK(contains(text([&] { return doubles.to_vector<float>(); }),
                 "at position 2, expected a number in the range of float"));
  CHECK(tensor_of<double>("F64", {0.1, -HUGE_VAL}).to_vector<float>() == Vector<float>{{0.1f, -HUGE_VALF}});
  CHECK(text([&] { return doubles.to_int64(); }) == "tensor \"t\" is of type F64, expected integers");
  CHECK(text([&] { return doubles.to_matrix<double>(); }) == "tensor \"t\" has the shape [3], expected 2 dimensions");
  CHECK(text([] { return example().at("weight").to_vector<float>(); }) ==
        "tensor \"weight\" has the shape [3, 2], expected 1 dimension");
}

TEST_CASE("what is not a safetensors file is refused with what is wrong", "[io][safetensors]") {
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  const auto one = [&](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return container("{\"w\":" + entry(dtype, shape, offsets) + "}", std::string(16, '\0'));
  };
  const auto two = [&](const std::string& a, const std::string& b, std::size_t size = 16) {
    return container("{\"a\":" + entry("U8", a.substr(0, a.find('@')), a.substr(a.find('@') + 1)) +
                         ",\"b\":" + entry("U8", b.substr(0, b.find('@')), b.substr(b.find('@') + 1)) + "}",
                     std::string(size, '\0'));
  };
  const auto refused = [](const std::string& file, const char* part) {
    CAPTURE(part, safetensors_refusal(file));
    CHECK(contains(safetensors_refusal(file), part));
  };
  refused("", "has 0 bytes, expected at least the 8");
  refused("1234567", "has 7 bytes");
  refused(container("", ""), "the header begins with \"\"");
  refused(container("    ", ""), "the header begins with \"    \"");
  refused(container(" {}", ""), "the header begins with \" {}\", expected {");
  refused(container("[]", ""), "the header begins with \"[]\"");
  refused(container("{}\n", ""), "expected { ... } and spaces");
  refused(container("{}x", ""), "expected { ... } and spaces");
  refused(container("{} {}", ""), "header: byte 3: found \"{}\" after");
  refused(container("{\"w\":}", ""), "header: byte 5");
  refused(container("{\"\xff\":{}}", ""), "header: byte 2: not valid UTF-8");
  refused(container("{}", "x"), "bytes 0 to 1 of the data belong to no tensor");
  refused(one("F32", "[2,2]", "[0,16]").substr(0, 60), "the header has a length of");
  refused(one("F32", "[2,2]", "[0,16]").substr(0, 75), "within the");
  refused(one("F32", "[2,2]", "[0,16]") + "x", "bytes 16 to 17 of the data belong to no tensor");
  refused(one("F8_E4M3", "[16]", "[0,16]"), "tensor \"w\": dtype is \"F8_E4M3\", which is not read");
  refused(one("f32", "[4]", "[0,16]"), "dtype is \"f32\"");
  refused(one("F32", "[3]", "[0,16]"), "tensor \"w\": shape [3] of F32 is 12 bytes, data_offsets say 16");
  refused(one("F32", "[2,-2]", "[0,16]"), "tensor \"w\": shape is [2, -2], expected sizes >= 0");
  refused(one("F32", "[4.0]", "[0,16]"), "tensor \"w\": JSON key \"shape\"[0] is 4.0, expected an integer");
  refused(one("F32", "4", "[0,16]"), "tensor \"w\": JSON key \"shape\" is 4, expected an array");
  refused(one("F32", "[4611686018427387904,4]", "[0,16]"), "shape is [4611686018427387904, 4], which is too large");
  refused(one("F32", "[2147483648,2147483648,2]", "[0,16]"), "which is too large");
  refused(one("F32", "[99999999999999999999]", "[0,16]"), "JSON key \"shape\"[0] is");
  refused(one("F32", "[4]", "[0,17]"), "data_offsets are [0,17], expected [begin, end] within the 16 bytes of data");
  refused(one("F32", "[4]", "[16,0]"), "data_offsets are [16,0]");
  refused(one("F32", "[4]", "[-16,0]"), "JSON key \"data_offsets\"[0] is -16");
  refused(one("F32", "[4]", "[0]"), "data_offsets are [0]");
  refused(one("F32", "[4]", "[0,8,16]"), "data_offsets are [0,8,16]");
  refused(one("F32", "[1073741824]", "[0,4294967296]"), "data_offsets are [0,4294967296]");
  refused(one("F32", "[4]", "[0,18446744073709551615]"), "JSON key \"data_offsets\"[1]");
  refused(one("F32", "[4]", "[0,9223372036854775807]"), "data_offsets are [0,9223372036854775807]");
  refused(container("{\"w\":{\"dtype\":\"U8\",\"shape\":[0]}}", ""),
          "tensor \"w\": JSON object has no key \"data_offsets\"");
  refused(container("{\"w\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"x\":1}}", ""),
          "the key \"x\", expected dtype");
  refused(container("{\"w\":3}", ""), "tensor \"w\": the entry is 3, expected an object");
  refused(container("{\"w\":" + entry("U8", "[0]", "[0,0]") + ",\"w\":" + entry("U8", "[0]", "[0,0]") + "}", ""),
          "the key \"w\" came before");
  refused(container("{\"__metadata__\":3}", ""), "__metadata__ is 3, expected an object");
  refused(container("{\"__metadata__\":{\"a\":1}}", ""), "__metadata__ \"a\" is 1, expected a string");
  refused(two("[8]@[0,8]", "[8]@[4,12]"),
          "tensor \"b\" begins at byte 4 of the data, inside of another tensor, which ends at 8");
  refused(two("[8]@[0,8]", "[8]@[0,8]"), "begins at byte 0 of the data, inside of another");
  refused(two("[8]@[0,8]", "[0]@[4,4]"), "tensor \"b\" begins at byte 4");
  refused(two("[16]@[0,16]", "[4]@[4,8]"), "tensor \"b\" begins at byte 4");
  refused(two("[4]@[0,4]", "[8]@[8,16]"), "bytes 4 to 8 of the data belong to no tensor");
  refused(two("[4]@[4,8]", "[8]@[8,16]"), "bytes 0 to 4 of the data belong to no tensor");
  refused(two("[4]@[0,4]", "[4]@[4,8]"), "bytes 8 to 16 of the data belong to no tensor");
}

TEST_CASE("a header that lies about its length costs nothing", "[io][safetensors]") {
  testing::TemporaryFolder folder;
  const std::string path = folder / "lie.safetensors";
  for (const std::uint64_t length : {std::uint64_t{1} << 32, std::uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7}) {
    std::string file = container("{}", "");
    std::memcpy(file.data(), &length, 8);
    CHECK(safetensors_refusal(file) == "safetensors data: the header has a length of " + std::to_string(length) +
                                           " bytes, expected at most 2 in a file of 10");
    write_atomically(path, file);
    CHECK(contains(error_text<std::runtime_error>([&] { read_safetensors(path); }),
                   path + ": the header has a length of"));
  }
  // a file that does have these bytes, all of them a hole: none is read
  REQUIRE(::truncate(path.c_str(), off_t{1} << 40) == 0);
  CHECK(contains(error_text<std::runtime_error>([&] { read_safetensors(path); }),
                 "expected at most 100000000 in a file of 1099511627776"));
  CHECK(contains(error_text<std::runtime_error>([&] { read_safetensors("/dev/zero"); }),
                 "/dev/zero: is a pipe or a device"));
}

TEST_CASE("a lie of 4 GiB in a header allocates nothing of that", "[io][safetensors][allocation]") {
  if (!testing::counts_allocations()) return;
  std::string length = container("{}", "");
  const std::uint64_t four_gib = std::uint64_t{1} << 32;
  std::memcpy(length.data(), &four_gib, 8);
  const auto tensor = [](const std::string& shape, const std::string& offsets) {
    return container("{\"w\":{\"dtype\":\"F32\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}",
                     std::string(16, '\0'));
  };
  for (const std::string& file : {length, tensor("[1073741824]", "[0,4294967296]"), tensor("[1073741824]", "[0,16]"),
                                  tensor("[4]", "[4294967296,4294967312]"), tensor("[32768,32768]", "[0,16]")}) {
    CAPTURE(file.substr(8, 80));
    std::string refused;
    CHECK(testing::bytes_in([&] { refused = safetensors_refusal(file); }) < 16'384);
    CHECK(contains(refused, "expected") != contains(refused, "data_offsets say 16"));
  }
}

TEST_CASE("a tensor that is not consistent is not added", "[io][safetensors]") {
  SafeTensors file = example();
  const auto text = [&](Tensor tensor) {
    return error_text<std::invalid_argument>([&] { file.add(std::move(tensor)); });
  };
  CHECK(text(Tensor::from_vector("bias", Vector<float>(2))) ==
        "SafeTensors::add: name is \"bias\", expected one that was not added before");
  CHECK(contains(text(Tensor::from_vector("__metadata__", Vector<float>(2))), "expected UTF-8 and not __metadata__"));
  CHECK(contains(text(Tensor::from_vector("\xff", Vector<float>(2))), "expected UTF-8"));
  CHECK(text({"x", Dtype::f32, {2, 2}, std::string(12, '\0')}) ==
        "SafeTensors::add: tensor \"x\" has the shape [2, 2] and 12 bytes, expected 16");
  CHECK(contains(text({"x", Dtype::f32, {-1, -1}, std::string(4, '\0')}),
                 "shape [-1, -1] and 4 bytes, expected sane sizes"));
  CHECK(contains(error_text<std::invalid_argument>([] { Tensor::from_values<float>("x", std::vector{1.f}, {2}); }),
                 "tensor \"x\" has the shape [2] and 4 bytes, expected 8"));
  CHECK(file.size() == 5);
}

TEST_CASE("mutated safetensors are read or refused", "[io][safetensors]") {
  const int taken = testing::survivors(format_safetensors(example()), 10'000, [](const std::string& text) {
    const SafeTensors file = parse_safetensors(text);
    if (parse_safetensors(format_safetensors(file)).size() != file.size()) FAIL("not the same after writing");
  });
  CAPTURE(taken);
  CHECK(taken > 300);
  CHECK(taken < 9'000);
}
