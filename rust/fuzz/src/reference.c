/* libjpeg's interface of libjpeg-turbo: coefficients, planes, and files of every layout. Each call has a codec of its own. */
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

struct complaints {
  struct jpeg_error_mgr manager;
  jmp_buf failed;
  int warnings;
};

static void fail(j_common_ptr codec) { longjmp(((struct complaints *)codec->err)->failed, 1); }

static void count(j_common_ptr codec, int level) {
  if (level < 0) ((struct complaints *)codec->err)->warnings++;
}

static void say_nothing(j_common_ptr codec) { (void)codec; }

static struct jpeg_error_mgr *listen_to(struct complaints *complaints) {
  complaints->warnings = 0;
  struct jpeg_error_mgr *manager = jpeg_std_error(&complaints->manager);
  manager->error_exit = fail;
  manager->emit_message = count;
  manager->output_message = say_nothing;
  return manager;
}

/* Coefficients component by component, block row by block row as they are picture, 64 a block in rows of eight.
   Returns their number, -1 after an error, -2 where `room` is too small. */
long reference_coefficients(const unsigned char *body, size_t length, short *target, long room, int *warnings) {
  struct jpeg_decompress_struct codec;
  struct complaints complaints;
  codec.err = listen_to(&complaints);
  long written = 0;
  jpeg_create_decompress(&codec);
  if (setjmp(complaints.failed)) {
    jpeg_destroy_decompress(&codec);
    return -1;
  }
  jpeg_mem_src(&codec, body, length);
  jpeg_read_header(&codec, TRUE);
  jvirt_barray_ptr *arrays = jpeg_read_coefficients(&codec);
  for (int index = 0; index < codec.num_components; index++) {
    jpeg_component_info *component = &codec.comp_info[index];
    long row_length = (long)component->width_in_blocks * DCTSIZE2;
    for (JDIMENSION y = 0; y < component->height_in_blocks && written >= 0; y++) {
      JBLOCKARRAY rows = (*codec.mem->access_virt_barray)((j_common_ptr)&codec, arrays[index], y, 1, FALSE);
      if (written + row_length > room) {
        written = -2;
      } else {
        memcpy(target + written, rows[0], row_length * sizeof(short));
        written += row_length;
      }
    }
  }
  jpeg_finish_decompress(&codec);
  *warnings = complaints.warnings;
  jpeg_destroy_decompress(&codec);
  return written;
}

/* Planes at full size in whole MCUs, one after the other, by the transform that is called slow and is exact.
   Returns the bytes written, -1 after an error, -2 where `room` is too small. */
long reference_planes(const unsigned char *body, size_t length, unsigned char *target, long room) {
  struct jpeg_decompress_struct codec;
  struct complaints complaints;
  codec.err = listen_to(&complaints);
  jpeg_create_decompress(&codec);
  if (setjmp(complaints.failed)) {
    jpeg_destroy_decompress(&codec);
    return -1;
  }
  jpeg_mem_src(&codec, body, length);
  jpeg_read_header(&codec, TRUE);
  codec.raw_data_out = TRUE;
  codec.do_block_smoothing = FALSE;
  codec.do_fancy_upsampling = FALSE;
  codec.dct_method = JDCT_ISLOW;
  codec.out_color_space = codec.jpeg_color_space;
  jpeg_start_decompress(&codec);
  long starts[4], pitches[4], total = 0;
  JDIMENSION mcus_across = (codec.image_width + 8 * codec.max_h_samp_factor - 1) / (8 * codec.max_h_samp_factor);
  JDIMENSION mcus_down = (codec.image_height + 8 * codec.max_v_samp_factor - 1) / (8 * codec.max_v_samp_factor);
  for (int index = 0; index < codec.num_components; index++) {
    jpeg_component_info *component = &codec.comp_info[index];
    starts[index] = total;
    pitches[index] = (long)mcus_across * component->h_samp_factor * DCTSIZE;
    total += pitches[index] * mcus_down * component->v_samp_factor * DCTSIZE;
  }
  if (total > room) {
    jpeg_destroy_decompress(&codec);
    return -2;
  }
  JSAMPROW lines[3][4 * DCTSIZE];
  JSAMPARRAY arrays[3] = {lines[0], lines[1], lines[2]};
  for (JDIMENSION mcu = 0; codec.output_scanline < codec.output_height; mcu++) {
    for (int index = 0; index < codec.num_components; index++) {
      int high = codec.comp_info[index].v_samp_factor * DCTSIZE;
      for (int line = 0; line < high; line++)
        lines[index][line] = target + starts[index] + ((long)mcu * high + line) * pitches[index];
    }
    if (!jpeg_read_raw_data(&codec, arrays, codec.max_v_samp_factor * DCTSIZE)) break;
  }
  jpeg_finish_decompress(&codec);
  jpeg_destroy_decompress(&codec);
  return total;
}

struct layout {
  int width, height, components;
  /* Luma samples per chroma sample. */
  int across, down;
  int quality, restart, optimise;
  /* Number of scans, 0 for the one that holds all; each: a component or -1 for all, then Ss, Se, Ah, Al. */
  int scans;
  int script[100][5];
};

/* Encode interleaved grey or YCbCr. Returns the bytes written, -1 after an error, -2 where `room` is too small. */
long reference_encode(const struct layout *layout, const unsigned char *pixels, unsigned char *target, long room) {
  struct jpeg_compress_struct codec;
  struct complaints complaints;
  unsigned char *buffer = NULL;
  unsigned long length = 0;
  jpeg_scan_info script[100];
  codec.err = listen_to(&complaints);
  jpeg_create_compress(&codec);
  if (setjmp(complaints.failed)) {
    jpeg_destroy_compress(&codec);
    return -1;
  }
  jpeg_mem_dest(&codec, &buffer, &length);
  codec.image_width = layout->width;
  codec.image_height = layout->height;
  codec.input_components = layout->components;
  codec.in_color_space = layout->components == 1 ? JCS_GRAYSCALE : JCS_YCbCr;
  jpeg_set_defaults(&codec);
  jpeg_set_quality(&codec, layout->quality, TRUE);
  codec.comp_info[0].h_samp_factor = layout->across;
  codec.comp_info[0].v_samp_factor = layout->down;
  codec.restart_interval = layout->restart;
  codec.optimize_coding = layout->optimise;
  for (int index = 0; index < layout->scans; index++) {
    const int *scan = layout->script[index];
    script[index].comps_in_scan = scan[0] < 0 ? layout->components : 1;
    for (int component = 0; component < 4; component++)
      script[index].component_index[component] = scan[0] < 0 ? component : scan[0];
    script[index].Ss = scan[1];
    script[index].Se = scan[2];
    script[index].Ah = scan[3];
    script[index].Al = scan[4];
  }
  if (layout->scans > 0) {
    codec.scan_info = script;
    codec.num_scans = layout->scans;
  }
  jpeg_start_compress(&codec, TRUE);
  while (codec.next_scanline < codec.image_height) {
    JSAMPROW line = (JSAMPROW)pixels + (size_t)codec.next_scanline * layout->width * layout->components;
    jpeg_write_scanlines(&codec, &line, 1);
  }
  jpeg_finish_compress(&codec);
  jpeg_destroy_compress(&codec);
  long written = (long)length <= room ? (long)length : -2;
  if (written >= 0) memcpy(target, buffer, length);
  free(buffer);
  return written;
}
